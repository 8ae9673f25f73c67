//! Tests of the readers.

use std::path::PathBuf;

use super::*;
use crate::Label;

/// A file of the given content in a folder that goes away with the value.
struct Sample {
    folder: tempfile::TempDir,
    path: PathBuf,
}

fn sample(name: &str, content: impl AsRef<[u8]>) -> Sample {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    Sample { folder, path }
}

fn open(name: &str, content: impl AsRef<[u8]>) -> Result<Loaded, DataError> {
    load(&sample(name, content).path, &LoadOptions::default())
}

/// The message, which must name the file.
fn complaint(name: &str, content: impl AsRef<[u8]>) -> String {
    let message = open(name, content).unwrap_err().to_string();
    assert!(message.contains(name), "{message}");
    message
}

fn item(text: &str, label: Label, rating: Option<f32>) -> Labelled {
    Labelled { text: text.to_owned(), label, rating }
}

#[test]
fn csv_with_header_quotes_and_any_label_spelling() {
    let content = "\u{feff}review,sentiment,stars\r\n\"fine, really\",positive,8.5\r\n\"he said \"\"no\"\"\nthen left\",neg,\r\n";
    let set = open("a.csv", content).unwrap().labelled().unwrap();
    let expected = [
        item("fine, really", Label::Positive, Some(8.5)),
        item("he said \"no\"\nthen left", Label::Negative, None),
    ];
    assert_eq!(set.items, expected);
}

#[test]
fn tsv_with_given_names_and_chosen_columns() {
    let file = sample("a.tsv", "x\t1\t\"good\" one\ny\t0\tbad one\n");
    let names = Some(["id", "gold", "body"].map(str::to_owned).to_vec());
    let columns = Columns { text: Some("body".into()), label: Some("gold".into()), ..Columns::default() };
    let options = LoadOptions { names, columns, ..LoadOptions::default() };
    let set = load(&file.path, &options).unwrap().labelled().unwrap();
    assert_eq!(set.items[0], item("\"good\" one", Label::Positive, None));
    let columns = Columns { text: Some("words".into()), ..Columns::default() };
    let message = load(&file.path, &LoadOptions { columns, ..options }).unwrap_err().to_string();
    assert!(message.contains("`words`") && message.contains("`body`"), "{message}");
}

#[test]
fn snippets_are_recognised_and_labelled_by_sign() {
    let set = open("a.tsv", "1\t2.5\tA joy.\r\n2\t-0.6\t\"Odd\" and dull\r\n").unwrap().labelled().unwrap();
    let expected =
        [item("A joy.", Label::Positive, Some(2.5)), item("\"Odd\" and dull", Label::Negative, Some(-0.6))];
    assert_eq!(set.items, expected);
}

#[test]
fn jsonl_of_every_kind() {
    let labelled =
        "{\"text\": \"a\", \"label\": 1, \"rating\": 3}\n\n{\"label\": \"neg\", \"text\": \"b\"}\n";
    let set = open("a.jsonl", labelled).unwrap().labelled().unwrap();
    assert_eq!(set.items, [item("a", Label::Positive, Some(3.0)), item("b", Label::Negative, None)]);
    let set =
        open("b.jsonl", "{\"prompt\": \"p\", \"completion\": \"c\"}").unwrap().demonstrations().unwrap();
    assert_eq!(set.items, [Demonstration { prompt: "p".into(), completion: "c".into() }]);
    let set =
        open("c.json", "{\"prompt\":\"p\",\"chosen\":\"c\",\"rejected\":\"r\"}").unwrap().ranked().unwrap();
    assert_eq!(set.items, [Ranked { prompt: "p".into(), chosen: "c".into(), rejected: "r".into() }]);
    let set = open("d.jsonl", "{\"text\": \"alone\"}").unwrap().texts().unwrap();
    assert_eq!(set.items, ["alone"]);
}

#[test]
fn plain_text_one_sentence_a_line() {
    let set = open("a.txt", "One .\r\n\n  Two .\n").unwrap().texts().unwrap();
    assert_eq!(set.items, ["One .", "Two ."]);
}

#[test]
fn imdb_folder() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("train/pos/10_8.txt", "later"),
        ("train/pos/2_9.txt", "good<br /><br />film"),
        ("train/neg/0_2.txt", "bad film"),
        ("test/pos/0_10.txt", "fine"),
    ] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let set = load(folder.path(), &LoadOptions::default()).unwrap().labelled().unwrap();
    let expected = [
        item("good film", Label::Positive, Some(9.0)),
        item("later", Label::Positive, Some(8.0)),
        item("bad film", Label::Negative, Some(2.0)),
    ];
    assert_eq!(set.items, expected);
    let test = LoadOptions { part: Part::Test, ..LoadOptions::default() };
    assert!(load(folder.path(), &test).unwrap_err().to_string().contains("test/neg: missing"));
    std::fs::create_dir_all(folder.path().join("test/neg")).unwrap();
    assert!(matches!(load(folder.path(), &test), Err(DataError::OneClass { count: 1, .. })));
    let allowed = LoadOptions { allow_one_class: true, ..test };
    assert_eq!(load(folder.path(), &allowed).unwrap().len(), 1);
    std::fs::write(folder.path().join("train/neg/1_1.txt"), "").unwrap();
    assert!(load(folder.path(), &LoadOptions::default()).unwrap_err().to_string().contains("1_1.txt"));
}

#[test]
fn empty_files() {
    for name in ["a.csv", "a.tsv", "a.jsonl", "a.txt"] {
        assert!(complaint(name, "").contains("no records"));
        assert!(complaint(name, "\n \n").contains("no records"));
    }
    assert!(complaint("b.csv", "text,label\n").contains("no records"));
    let folder = tempfile::tempdir().unwrap();
    assert!(load(folder.path(), &LoadOptions::default()).unwrap_err().to_string().contains("train/pos"));
}

#[test]
fn one_class_only() {
    let message = complaint("a.csv", "text,label\na,1\nb,1\n");
    assert!(
        message.contains("all 2 records are positive") && message.contains("allow_one_class"),
        "{message}"
    );
}

#[test]
fn bad_utf8_names_the_line() {
    for name in ["a.csv", "a.jsonl", "a.txt"] {
        let message = complaint(name, b"text,label\na,1\n\xff\xfe,0\n");
        assert!(message.contains("line 3") && message.contains("UTF-8"), "{message}");
    }
}

#[test]
fn missing_columns_and_unknown_labels() {
    let message = complaint("a.csv", "words,label\na,1\n");
    assert!(message.contains("`words`") && message.contains("needed"), "{message}");
    let message = complaint("b.jsonl", "{\"text\":\"a\",\"label\":1}\n{\"text\":\"b\"}\n");
    assert!(message.contains("line 2") && message.contains("`label`"), "{message}");
    let message = complaint("c.csv", "text,label\na,1\nb,maybe\n");
    assert!(message.contains("line 3, field `label`") && message.contains("`maybe`"), "{message}");
    let message = complaint("d.csv", "text,rating\na,1\nb,9\n");
    assert!(message.contains("from 1 to 9") && message.contains("positive_above"), "{message}");
    let message = complaint("e.csv", "text,label,rating\na,1,high\n");
    assert!(message.contains("field `rating`") && message.contains("not a number"), "{message}");
    let message = complaint("f.csv", "text,label\n ,1\n");
    assert!(message.contains("line 2, field `text`: empty"), "{message}");
    let file = sample("g.csv", "text,label\na,1\n");
    let options = LoadOptions { kind: Some(Kind::Ranked), ..LoadOptions::default() };
    assert!(load(&file.path, &options).unwrap_err().to_string().contains("`chosen`"));
}

#[test]
fn ragged_and_truncated_files() {
    let message = complaint("a.csv", "text,label\na,1\nb,c,0\n");
    assert!(message.contains("line 3") && message.contains("3 fields where 2"), "{message}");
    let message = complaint("b.csv", "text,label\na,1\n\"cut off in the mid");
    assert!(message.contains("never closed"), "{message}");
    let message = complaint("c.csv", "label,text\n0,a\n1,\"cut off in the\nmid\n");
    assert!(message.contains("line 3") && message.contains("never closed"), "{message}");
    assert_eq!(open("e.csv", "label,text\n0,a\n1,a 5\" disc").unwrap().len(), 2);
    let message = complaint("d.jsonl", "{\"text\":\"a\",\"label\":1}\n{\"text\":\"b\",\"lab");
    assert!(message.contains("line 2") && message.contains("cut short"), "{message}");
    assert!(complaint("f.jsonl", "[1, 2]\n").contains("not a JSON object"));
    assert!(complaint("g.jsonl", "{\"text\": [\"a\"], \"label\": 1}\n").contains("field `text`"));
    assert!(complaint("h.json", "[{\"text\": \"a\"}]").contains("one object a line"));
    assert!(complaint("i.bin", "some words").contains("cannot tell the format"));
}

#[test]
fn asking_for_other_records_says_what_there_is() {
    let loaded = open("a.jsonl", "{\"prompt\": \"p\", \"completion\": \"c\"}").unwrap();
    let message = loaded.ranked().unwrap_err().to_string();
    assert!(message.contains("ranked pairs") && message.contains("demonstrations"), "{message}");
    let gone = sample("x.csv", "");
    let path = gone.path.clone();
    drop(gone.folder);
    assert!(load(path, &LoadOptions::default()).unwrap_err().to_string().contains("x.csv"));
}

#[cfg(not(feature = "parquet"))]
#[test]
fn parquet_asks_for_the_feature() {
    assert!(complaint("a.parquet", "PAR1").contains("--features parquet"));
}

#[cfg(feature = "parquet")]
mod parquet_files {
    use std::sync::Arc;

    use ::parquet::basic::Compression;
    use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use ::parquet::file::properties::WriterProperties;
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;

    use super::*;

    fn write(texts: &[&str], labels: &[i64]) -> Vec<u8> {
        let schema = "message m { REQUIRED BYTE_ARRAY text (UTF8); REQUIRED INT64 label; }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let snappy = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let mut bytes = Vec::new();
        let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(snappy)).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let texts: Vec<ByteArray> = texts.iter().map(|t| ByteArray::from(*t)).collect();
        column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(labels, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        bytes
    }

    #[test]
    fn reads_rows_and_reports_trouble() {
        let bytes = write(&["a joy", "a bore"], &[1, 0]);
        let set = open("a.parquet", &bytes).unwrap().labelled().unwrap();
        assert_eq!(set.items, [item("a joy", Label::Positive, None), item("a bore", Label::Negative, None)]);
        assert!(complaint("b.parquet", &bytes[..bytes.len() - 9]).contains("cut short"));
        assert!(complaint("c.parquet", write(&["a", "b"], &[1, 7])).contains("line 2, field `label`"));
        assert!(complaint("d.parquet", "").contains("parquet"));
    }
}
