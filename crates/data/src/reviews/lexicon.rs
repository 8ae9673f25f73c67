//! Words with a sentiment, words that change it, and neutral words.
//!
//! Weights run from 0 (no opinion) to 1 (as strong as it gets); the generator and the oracle share them, but
//! each has its own way from text to sentiment and back.

/// A word or phrase and the strength of its opinion, sign included.
pub(super) type Weighted = (&'static str, f32);

/// What "not", "never" and the like do to the opinion in their reach.
pub(super) const NEGATED: f32 = -0.7;
/// What "but" leaves of what came before it.
pub(super) const CONCEDED: f32 = 0.5;
/// "never seen a more ...": negated comparison is praise, or scorn, of the strongest kind.
pub(super) const UNSURPASSED: f32 = 1.5;

pub(super) const GOOD_ADJECTIVES: &[Weighted] = &[
    ("brilliant", 1.0), ("superb", 1.0), ("wonderful", 0.95), ("stunning", 0.9), ("gripping", 0.8),
    ("charming", 0.7), ("clever", 0.65), ("funny", 0.7), ("moving", 0.75), ("tender", 0.6),
    ("graceful", 0.65), ("lively", 0.55), ("honest", 0.5), ("fresh", 0.5), ("elegant", 0.6),
    ("inventive", 0.7), ("thrilling", 0.8), ("touching", 0.7), ("rich", 0.5), ("sharp", 0.5), ("witty", 0.7),
    ("lovely", 0.75), ("magical", 0.8), ("believable", 0.45), ("solid", 0.4), ("decent", 0.35),
    ("memorable", 0.65), ("heartfelt", 0.65), ("vivid", 0.5), ("polished", 0.45), ("playful", 0.5),
    ("satisfying", 0.6), ("delicate", 0.45), ("bold", 0.45),
];

pub(super) const BAD_ADJECTIVES: &[Weighted] = &[
    ("awful", -1.0), ("dreadful", -1.0), ("terrible", -0.95), ("painful", -0.85), ("boring", -0.75),
    ("dull", -0.65), ("lazy", -0.6), ("clumsy", -0.6), ("silly", -0.45), ("shallow", -0.6), ("empty", -0.5),
    ("flat", -0.5), ("tired", -0.5), ("stale", -0.55), ("messy", -0.55), ("forced", -0.55), ("wooden", -0.6),
    ("bland", -0.55), ("predictable", -0.5), ("confusing", -0.5), ("noisy", -0.4), ("cheap", -0.5),
    ("pointless", -0.8), ("tedious", -0.75), ("weak", -0.5), ("lifeless", -0.75), ("irritating", -0.7),
    ("sloppy", -0.6), ("uneven", -0.35), ("ugly", -0.6), ("hollow", -0.55), ("cold", -0.35),
    ("muddled", -0.55), ("unfunny", -0.65),
];

/// Past tense, base form, weight; said of some part of the film.
pub(super) const GOOD_VERBS: &[(&str, &str, f32)] = &[
    ("moved me", "move me", 0.7), ("won me over", "win me over", 0.75),
    ("made me smile", "make me smile", 0.6), ("made me laugh", "make me laugh", 0.7),
    ("kept me hooked", "keep me hooked", 0.75), ("stayed with me", "stay with me", 0.6),
    ("swept me away", "sweep me away", 0.85), ("delighted us", "delight us", 0.8),
    ("thrilled me", "thrill me", 0.8), ("came alive", "come alive", 0.6),
    ("held my attention", "hold my attention", 0.5), ("lifted my mood", "lift my mood", 0.6),
];

/// As [`GOOD_VERBS`], the other way.
pub(super) const BAD_VERBS: &[(&str, &str, f32)] = &[
    ("bored me", "bore me", -0.7), ("annoyed me", "annoy me", -0.65), ("lost me", "lose me", -0.5),
    ("let me down", "let us down", -0.7), ("fell flat", "fall flat", -0.65), ("dragged on", "drag on", -0.55),
    ("put me to sleep", "put us to sleep", -0.8), ("wore me out", "wear me out", -0.6),
    ("went nowhere", "go nowhere", -0.6), ("disappointed us", "disappoint us", -0.7),
    ("left me cold", "leave me cold", -0.65), ("got on my nerves", "get on my nerves", -0.7),
];

/// Past tense, base form, weight; said of the viewer.
pub(super) const LIKED: &[(&str, &str, f32)] = &[
    ("loved", "love", 0.9), ("enjoyed", "enjoy", 0.7), ("admired", "admire", 0.6), ("adored", "adore", 0.9),
    ("liked", "like", 0.45), ("treasured", "treasure", 0.7), ("cherished", "cherish", 0.75),
];

/// As [`LIKED`], the other way.
pub(super) const DISLIKED: &[(&str, &str, f32)] = &[
    ("hated", "hate", -0.9), ("disliked", "dislike", -0.6), ("despised", "despise", -0.9),
    ("resented", "resent", -0.6), ("regretted", "regret", -0.6), ("loathed", "loathe", -0.95),
];

/// What a film, or a part of it, had or lacked.
pub(super) const VIRTUES: &[Weighted] = &[
    ("charm", 0.6), ("wit", 0.6), ("warmth", 0.6), ("real heart", 0.65), ("depth", 0.5), ("grace", 0.55),
    ("imagination", 0.6), ("sparkle", 0.6), ("magic", 0.65), ("tension", 0.45),
];

/// As [`VIRTUES`], the other way.
pub(super) const VICES: &[Weighted] = &[
    ("cliches", -0.55), ("plot holes", -0.55), ("empty noise", -0.6), ("bad jokes", -0.65),
    ("tired ideas", -0.6), ("loose ends", -0.4), ("cheap tricks", -0.6), ("false notes", -0.5),
];

/// "it was a ...".
pub(super) const TREATS: &[Weighted] = &[
    ("triumph", 1.0), ("joy", 0.8), ("treat", 0.7), ("delight", 0.8), ("gem", 0.8), ("pleasure", 0.7),
    ("marvel", 0.9), ("masterpiece", 1.0),
];

/// As [`TREATS`], the other way.
pub(super) const CHORES: &[Weighted] = &[
    ("mess", -0.7), ("waste of time", -0.9), ("chore", -0.7), ("bore", -0.7), ("failure", -0.8),
    ("letdown", -0.7), ("disaster", -1.0), ("slog", -0.7),
];

/// Whole clauses: text, the part that carries the opinion, its weight.
pub(super) const VERDICTS: &[(&str, &str, f32)] = &[
    ("we clapped at the end", "clapped", 0.6), ("i will remember it for years", "remember it", 0.6),
    ("we talked about it all the way home", "talked about it all", 0.5),
    ("i told all my friends to go", "told all my friends", 0.6),
    ("it was worth every minute", "worth every minute", 0.7),
    ("i would gladly watch it again", "watch it again", 0.7), ("i left with a big smile", "a big smile", 0.6),
    ("the whole room cheered", "cheered", 0.6), ("i wept with happiness", "happiness", 0.7),
    ("i forgot it by the next morning", "forgot it", -0.5),
    ("i checked my watch again and again", "checked my watch", -0.5),
    ("we left before the end", "left before the end", -0.6),
    ("i fell asleep halfway through", "fell asleep", -0.6),
    ("i told my brother to stay home", "to stay home", -0.6), ("i want my money back", "my money back", -0.7),
    ("half of the room walked out", "walked out", -0.6),
    ("it seemed twice as long to all of us", "twice as long", -0.5),
];

/// "the film was too ..."; harmless alone.
pub(super) const TOO: &[Weighted] = &[
    ("too long", -0.5), ("too slow", -0.5), ("too loud", -0.45), ("too busy", -0.4), ("too thin", -0.45),
    ("too dark", -0.35), ("too neat", -0.35), ("too simple", -0.4),
];

/// Common words of opinion that the generator does not use but other writers do.
pub(super) const FREE_TEXT: &[Weighted] = &[
    ("great", 0.75), ("good", 0.5), ("best", 0.8), ("excellent", 0.95), ("amazing", 0.9), ("fantastic", 0.9),
    ("perfect", 0.95), ("beautiful", 0.75), ("beautifully", 0.7), ("enjoyable", 0.65), ("entertaining", 0.65),
    ("hilarious", 0.8), ("outstanding", 0.95), ("incredible", 0.85), ("love", 0.8), ("loves", 0.6),
    ("fun", 0.6), ("delightful", 0.8), ("compelling", 0.7), ("engaging", 0.6), ("powerful", 0.65),
    ("remarkable", 0.7), ("impressive", 0.65), ("refreshing", 0.6), ("fascinating", 0.65), ("exciting", 0.65),
    ("favorite", 0.7), ("captivating", 0.75), ("smart", 0.5), ("recommend", 0.6), ("recommended", 0.6),
    ("captivated", 0.7), ("impressed", 0.6), ("pleased", 0.5), ("happy", 0.4), ("masterful", 0.9),
    ("unforgettable", 0.8), ("warm", 0.4), ("bad", -0.65), ("worst", -1.0), ("horrible", -0.95),
    ("poor", -0.6), ("poorly", -0.6), ("stupid", -0.7), ("waste", -0.8), ("wasted", -0.6),
    ("ridiculous", -0.55), ("annoying", -0.65), ("disappointing", -0.7), ("disappointed", -0.65),
    ("bored", -0.65), ("lame", -0.6), ("mediocre", -0.5), ("slow", -0.35), ("fails", -0.6), ("failed", -0.6),
    ("hate", -0.8), ("hates", -0.6), ("unbearable", -0.9), ("forgettable", -0.6), ("trash", -0.8),
    ("garbage", -0.9), ("worthless", -0.9), ("crap", -0.8), ("tiresome", -0.6), ("unwatchable", -0.95),
    ("disaster", -1.0), ("ruined", -0.7), ("saved the film", 0.6), ("ruined the film", -0.7),
    ("worth the ticket", 0.6), ("recommend it", 0.6), ("make no sense", -0.6), ("made no sense", -0.6),
    ("makes no sense", -0.6),
];

/// Words just before an opinion that strengthen or weaken it.
pub(super) const DEGREES: &[Weighted] = &[
    ("very", 1.3), ("really", 1.3), ("truly", 1.4), ("deeply", 1.4), ("utterly", 1.5), ("so", 1.3),
    ("quite", 0.9), ("rather", 0.8), ("fairly", 0.7), ("slightly", 0.6), ("surprisingly", 1.1),
    ("mostly", 0.8), ("simply", 1.2), ("completely", 1.4), ("almost", 0.7), ("extremely", 1.5),
    ("absolutely", 1.5), ("incredibly", 1.4), ("somewhat", 0.7), ("pretty", 0.9), ("totally", 1.4),
    ("often", 0.9), ("always", 1.2),
];
/// How many of [`DEGREES`] the generator uses, from the start.
pub(super) const DEGREES_SPOKEN: usize = 15;

/// Words that turn the opinion after them round.
pub(super) const NEGATORS: &[&str] = &[
    "not", "never", "no", "nothing", "hardly", "barely", "neither", "nor", "without", "lacked", "lacks",
    "lacking", "anything_but", "cannot", "nobody", "none", "isn't", "wasn't", "aren't", "weren't", "don't",
    "doesn't", "didn't", "can't", "couldn't", "won't", "wouldn't", "shouldn't", "hasn't", "haven't",
    "far_from", "could_have", "should_have", "would_have", "might_have", "wanted_to", "wants_to", "tried_to",
    "tries_to", "trying_to", "failed_to", "fails_to", "expected", "expecting", "hoped", "hoping",
    "supposed_to", "rarely", "seldom",
];

/// Parts of a film: name, whether plural.
pub(super) const ASPECTS: &[(&str, bool)] = &[
    ("acting", false), ("ending", false), ("plot", false), ("script", false), ("dialogue", false),
    ("music", false), ("camera work", false), ("story", false), ("cast", false), ("pacing", false),
    ("direction", false), ("second half", false), ("opening scene", false), ("soundtrack", false),
    ("villain", false), ("romance", false), ("editing", false), ("lighting", false), ("humor", false),
    ("car chase", false), ("final act", false), ("first hour", false), ("lead actress", false),
    ("narrator", false), ("whole film", false), ("mood", false), ("characters", true), ("jokes", true),
    ("costumes", true), ("effects", true), ("songs", true), ("fight scenes", true), ("performances", true),
    ("twists", true), ("dance numbers", true), ("flashbacks", true), ("child actors", true),
    ("side stories", true), ("landscapes", true), ("quiet moments", true),
];

/// Those of [`ASPECTS`] that can be better in one place than in another.
pub(super) const LOCATED: &[&str] = &[
    "acting", "dialogue", "music", "camera work", "pacing", "editing", "lighting", "humor", "jokes", "effects",
    "songs", "fight scenes", "dance numbers", "twists",
];

pub(super) const KINDS: &[&str] =
    &["film", "movie", "story", "drama", "comedy", "picture", "show", "tale", "piece of work", "debut"];

pub(super) const COMPANIONS: &[&str] = &[
    "my sister", "my brother", "my mother", "my father", "two friends", "my cousin", "my neighbor",
    "our daughter", "our son", "my roommate", "an old friend", "my grandfather", "my aunt", "the book club",
    "a colleague",
];
pub(super) const DAYS: &[&str] =
    &["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "weekday", "holiday"];
pub(super) const WEATHER: &[&str] = &["rainy", "snowy", "windy", "sunny", "cloudy", "foggy", "mild", "late"];
pub(super) const VENUES: &[&str] = &[
    "the corner cinema", "the festival", "the town hall", "the drive in", "a friend's house", "the library",
    "the museum", "the old theater", "home", "school", "the student club",
];
pub(super) const TITLE_FIRST: &[&str] = &[
    "quiet", "northern", "paper", "winter", "silver", "last", "seventh", "hidden", "blue", "crimson", "stone",
    "midnight", "western", "copper", "glass", "autumn", "wandering", "distant",
];
pub(super) const TITLE_SECOND: &[&str] = &[
    "river", "harbor", "garden", "train", "orchard", "lantern", "bridge", "island", "letter", "tower",
    "window", "mountain", "clock", "sparrow", "station", "road", "mirror", "kitchen",
];
pub(super) const GENRES: &[&str] = &[
    "drama", "comedy", "western", "thriller", "musical", "mystery", "documentary", "road movie", "war film",
    "family film", "crime story", "space adventure", "period piece",
];
pub(super) const PEOPLE: &[&str] = &[
    "baker", "teacher", "sailor", "nurse", "farmer", "detective", "pianist", "pilot", "lawyer", "painter",
    "widow", "student", "soldier", "gardener", "journalist", "fisherman", "librarian", "chef", "tailor",
    "clerk",
];
pub(super) const PLACES: &[&str] = &[
    "chicago", "a small village", "the coast", "paris", "the desert", "a mining town", "lisbon",
    "the suburbs", "an island", "the mountains", "tokyo", "the harbor", "texas", "a border town",
];
pub(super) const DEEDS: &[&str] = &[
    "moves to a new city", "looks for a missing brother", "buys an old boat", "writes letters to a stranger",
    "opens a small shop", "inherits a farm", "learns to swim", "returns after ten years", "takes a night job",
    "builds a bridge", "adopts a dog", "crosses the ocean", "investigates a theft",
    "teaches at a village school", "walks across the country", "joins a circus", "keeps bees",
    "repairs clocks",
];
pub(super) const ASIDES: &[&str] = &[
    "it runs for about two hours", "most of it takes place at night", "it was filmed in black and white",
    "there is a long scene on a train", "it begins and ends in a kitchen", "the dog appears twice",
    "there is little music in it", "it is based on a book from the thirties",
    "the second part is set in winter",
];
