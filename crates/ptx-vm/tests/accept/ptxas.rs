//! The real assembler as a judge of single lines.
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Builds a module around lines, `None` for one left out; with it, the number of the first line.
pub type Wrap<'a> = &'a dyn Fn(&[Option<&str>]) -> (String, u32);

/// Which of the lines the assembler refuses. All are assembled at once; those it complains about are taken out and the
/// rest is assembled again until it is content.
pub fn rejected(ptxas: &Path, arch: u32, module: Wrap, lines: &[&str]) -> BTreeSet<usize> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("batch.ptx");
    let mut rejected = BTreeSet::new();
    loop {
        let kept: Vec<Option<&str>> =
            (0..lines.len()).map(|i| (!rejected.contains(&i)).then(|| lines[i])).collect();
        let (source, first_line) = module(&kept);
        std::fs::write(&file, source).expect("the batch is written");
        let out = Command::new(ptxas)
            .args(["-O0", "-arch", &format!("sm_{arch}"), "-o"])
            .arg(dir.path().join("out"))
            .arg(&file)
            .output();
        let out = out.expect("ptxas runs");
        if out.status.success() {
            return rejected;
        }
        let before = rejected.len();
        let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        for message in text.lines().filter(|l| l.contains("error") || l.contains("fatal")) {
            let number = message
                .split("line ")
                .nth(1)
                .and_then(|rest| rest.split(';').next()?.trim().parse::<u32>().ok());
            if let Some(line) =
                number.filter(|&n| n >= first_line && ((n - first_line) as usize) < lines.len())
            {
                rejected.insert((line - first_line) as usize);
            }
        }
        if rejected.len() == before {
            // No line named: halve until one line is left.
            let left: Vec<usize> = (0..lines.len()).filter(|i| !rejected.contains(i)).collect();
            match left.as_slice() {
                [] => panic!("ptxas refuses the empty batch: {text}"),
                [one] => drop(rejected.insert(*one)),
                _ => {
                    for half in left.chunks(left.len().div_ceil(2)) {
                        let part: Vec<&str> = half.iter().map(|&i| lines[i]).collect();
                        let inner = self::rejected(ptxas, arch, module, &part);
                        rejected.extend(inner.into_iter().map(|i| half[i]));
                    }
                    return rejected;
                }
            }
        }
    }
}
