//! Every format reads common files within bounds and reports the place of a fault.

use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The documents of a file, or its fault.
    fn documents(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<Vec<String>, String> {
        self.read(name, bytes, Format::Auto, Header::FirstRow, &Fields::new(&[]))
    }

    fn read(
        &self,
        name: &str,
        bytes: impl AsRef<[u8]>,
        format: Format,
        header: Header,
        fields: &Fields,
    ) -> Result<Vec<String>, String> {
        let file =
            OpenFile::open(&self.write(name, bytes), format, Format::Lines).map_err(|error| error.to_string())?;
        let (mut records, _) = file.records(header, fields).map_err(|error| error.to_string())?;
        let mut documents = Vec::new();
        while let Some(record) = records.read() {
            let record = record.map_err(|fault| CliError::from(fault).to_string())?;
            let document = fields.document(&record).map_err(|error| format!("{}: {error}", record.place))?;
            let id = document.id.map_or_else(String::new, |id| format!("{id}="));
            documents.push(format!("{id}{}", document.text));
        }
        Ok(documents)
    }
}

fn fields(choices: &[&str]) -> Fields {
    let choices: Vec<FieldChoice> = choices.iter().map(|choice| choice.parse().unwrap()).collect();
    Fields::new(&choices)
}

#[test]
fn a_json_array_is_read_on_one_line_and_on_many() {
    let files = Files::new();
    for json in [
        r#"["a, [b]", {"id": 7, "text": "c \"}\" d"}, ""]"#,
        "[\n  \"a, [b]\",\r\n  {\n    \"id\": 7,\n    \"text\": \"c \\\"}\\\" d\"\n  },\n  \"\"\n]\n\n",
        "\u{feff}  [ \"a, [b]\" ,{\"text\":\"c \\\"}\\\" d\",\"id\":7},\"\" ]",
    ] {
        assert_eq!(files.documents("d.json", json).unwrap(), ["a, [b]", "7=c \"}\" d", ""], "{json}");
    }
    assert_eq!(files.documents("d.json", " [ ]\n").unwrap(), [""; 0]);
}

#[test]
fn a_broken_json_array_is_refused_with_its_line_and_the_format_option() {
    let files = Files::new();
    for (json, message) in [
        ("[\"a\",\n\"b\"", "line 2: ends inside of its array"),
        ("[\"a\",\n]", "line 2: has a comma after its last element"),
        ("[\"a\"]\n[\"b\"]", "line 2: goes on after the end of its array"),
        ("[\"a\"}", "line 1: has a bracket that closes nothing"),
        ("[\"a\",\n\"b", "line 2: ends inside of its array"),
    ] {
        let error = files.documents("d.json", json).unwrap_err();
        assert!(error.contains(message) && error.contains("--documents-format"), "{json}: {error}");
    }
    let error = files.documents("d.json", "[\"a\",\n {\"text\": 3}]").unwrap_err();
    assert!(error.contains("line 2, element 1: \"text\" must be a string"), "{error}");
    let error = files.documents("d.json", "[\"a\", 3]").unwrap_err();
    assert!(error.contains("element 1") && error.contains("expected a document"), "{error}");
    let error = files.documents("d.json", "[\"a\" \"b\"]").unwrap_err();
    assert!(error.contains("element 0: trailing characters"), "{error}");
}

#[test]
fn plain_text_that_begins_with_a_bracket_is_not_an_array() {
    let files = Files::new();
    for text in ["[1] Introduction", "[draft] notes", "[x]", "[see below", "[1", "[2024-01-02] log line"] {
        let read = files.documents("d.txt", text);
        assert!(read.as_ref().is_ok_and(|lines| lines == &[text]) || text == "[1", "{text}: {read:?}");
    }
    // These are arrays of values that are not documents.
    for json in ["[1, 2]", "[null]", "[[\"a\"]]", "[true,\nfalse]"] {
        assert!(files.documents("d.txt", json).unwrap_err().contains("element 0"), "{json}");
    }
}

#[test]
fn a_byte_order_mark_is_not_part_of_the_first_document() {
    let files = Files::new();
    assert_eq!(files.documents("d.jsonl", "\u{feff}\"a\"\n\"b\"\n").unwrap(), ["a", "b"]);
    assert_eq!(files.documents("d", "\u{feff}{\"text\": \"a\"}\n").unwrap(), ["a"]);
    assert_eq!(files.documents("d.txt", "\u{feff}a\nb").unwrap(), ["a", "b"]);
    assert_eq!(files.documents("d.csv", "\u{feff}text\na\n").unwrap(), ["a"]);
    // Two files joined.
    assert_eq!(files.documents("d.jsonl", "\u{feff}\"a\"\n\u{feff}\"b\"\n").unwrap(), ["a", "b"]);
}

#[test]
fn utf16_and_compressed_files_are_recognised() {
    let files = Files::new();
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    for (bytes, message) in [
        (utf16("\u{feff}[\"a\"]"), "is UTF-16: convert it with `iconv -f UTF-16 -t UTF-8`"),
        ("\u{feff}\"a\"".encode_utf16().flat_map(u16::to_be_bytes).collect(), "is UTF-16"),
        (utf16("{\"text\": \"a\"}"), "if it is UTF-16, convert it with `iconv -f UTF-16LE -t UTF-8`"),
        (b"\x1f\x8b\x08\0\0".to_vec(), "is compressed"),
        (b"PK\x03\x04\x14\0".to_vec(), "a zip archive or a workbook"),
    ] {
        let error = files.documents("d.txt", &bytes).unwrap_err();
        assert!(error.contains(message), "{bytes:?}: {error}");
    }
}

#[test]
fn half_an_emoji_in_a_document_becomes_the_replacement_character() {
    let files = Files::new();
    assert_eq!(
        files.documents("d.jsonl", "\"a \\ud83d\"\n{\"text\": \"\\ude00 b\"}").unwrap(),
        ["a \u{fffd}", "\u{fffd} b"]
    );
}

#[test]
fn csv_has_quotes_and_line_breaks_and_tsv_has_neither() {
    let files = Files::new();
    let csv = "id,text\r\n1,\"a, \"\"b\"\"\r\nc\"\r\n\r\n2,d\r\n3,\r\n";
    assert_eq!(files.documents("d.csv", csv).unwrap(), ["1=a, \"b\"\r\nc", "2=d", "3="]);
    assert_eq!(files.documents("d.csv", "Text;id\na, b;1\n").unwrap(), ["1=a, b"], "semicolons of a spreadsheet");
    assert_eq!(
        files.documents("d.tsv", "id\ttext\n1\t\"The first\n2\tsecond\" one").unwrap(),
        ["1=\"The first", "2=second\" one"]
    );
    let read = |format| files.read("d.dat", "id,text\n1,a\n", format, Header::FirstRow, &fields(&[]));
    assert_eq!(read(Format::Csv).unwrap(), ["1=a"]);
    assert_eq!(read(Format::Auto).unwrap(), ["id,text", "1,a"]);
    let named = Header::Named(vec!["qid".into(), "pid".into(), "query".into(), "passage".into()]);
    let read = files.read("d.tsv", "1\t7\tq\ta\n", Format::Auto, named, &fields(&[]));
    assert_eq!(read.unwrap(), ["7=a"]);
}

#[test]
fn wrong_column_counts_and_open_quotes_are_reported_with_their_line() {
    let files = Files::new();
    for (csv, message) in [
        ("id,text\n1,a\n2,b,c\n", "line 3: has 3 columns, and the file has 2"),
        ("id,text\n1,\"a\nb\n", "line 2: has a quote that is not closed"),
        ("id,body\n1,a\n", "has no \"text\" but \"id\", \"body\": choose with --field text=NAME"),
        ("text,text\na,b\n", "two columns have the name \"text\""),
        ("id,text\r1,a\r", "line 1: has a carriage return within"),
    ] {
        let error = files.documents("d.csv", csv).unwrap_err();
        assert!(error.contains(message), "{csv}: {error}");
    }
    let error = files.documents("d.csv", b"text\nm\xf6\n").unwrap_err();
    assert!(error.contains("line 2: is not UTF-8"), "{error}");
}

#[test]
fn a_row_of_empty_cells_is_no_record() {
    let files = Files::new();
    for csv in ["id,text\n1,a\n,\n2,b\n", "id,text\r\n1,a\r\n\"\",\"\"\r\n2,b\r\n", "id;text\n;\n1;a\n2;b\n;\n"] {
        assert_eq!(files.documents("d.csv", csv).unwrap(), ["1=a", "2=b"], "{csv:?}");
    }
    let many = "id,text\n".to_owned() + &",\n".repeat(100_000) + "1,a\n";
    assert_eq!(files.documents("d.csv", &many).unwrap(), ["1=a"]);
}

#[test]
fn columns_that_are_named_twice_are_refused() {
    let named = Header::Named(vec!["text".into(), "id".into(), "text".into()]);
    let error = Files::new().read("d.csv", "a,1,b\n", Format::Auto, named, &fields(&[])).unwrap_err();
    assert!(error.contains("--columns has the name \"text\" twice"), "{error}");
}

#[test]
fn chosen_fields_together_are_the_text() {
    let files = Files::new();
    let read =
        |choices: &[&str], text: &str| files.read("d.jsonl", text, Format::Auto, Header::FirstRow, &fields(choices));
    let beir = r#"{"_id": "d1", "title": "A title", "text": "the text", "metadata": {}}"#;
    assert_eq!(read(&[], beir).unwrap(), ["d1=the text"]);
    assert_eq!(read(&["text=title", "text=text"], beir).unwrap(), ["d1=A title the text"]);
    assert_eq!(read(&["text=title", "text=text"], r#"{"title": "", "text": "t"}"#).unwrap(), ["t"]);
    assert!(read(&["text=body"], beir).unwrap_err().contains("has no \"body\""));
    assert!(read(&["id=key"], beir).unwrap_err().contains("choose with --field id=NAME"));
    assert!("colour=x".parse::<FieldChoice>().unwrap_err().contains("text, id, query, query-id"));
}

#[test]
fn ids_come_back_as_they_came() {
    for json in ["\"q1\"", "7", "-1", "18446744073709551615", "1.0"] {
        assert_eq!(serde_json::to_string(&parse::<Id>(json).unwrap()).unwrap(), json);
    }
    for json in ["true", "[1]", "123456789012345678901234567890", "{}"] {
        assert!(parse::<Id>(json).unwrap_err().contains("an id must be"), "{json}");
    }
    assert!(parse::<Id>(&format!("\"{}\"", "x".repeat(2000))).unwrap_err().contains("limited to 1024 bytes"));
}

fn rules() -> RequestRules {
    RequestRules { fields: Fields::new(&[]), keep: vec!["label".to_owned()], max_documents: 3 }
}

#[test]
fn fields_of_a_request_are_used_returned_or_refused_by_name() {
    let line = rules().parse(
        r#"{"id": "q", "query": "a", "documents": ["b", {"text": "c", "id": 1}], "top_n": 2.0, "max_tokens": 8,
            "truncation": "none", "scores": "sigmoid", "settings": {"k": "v"}, "model": "m", "label": [1]}"#,
    );
    let line = line.unwrap();
    assert_eq!((line.overrides.top_n, line.overrides.max_tokens), (Some(2), Some(8)));
    assert_eq!(line.overrides.truncation, Some(CliTruncation::None));
    assert_eq!(line.overrides.scores, Some(Scores::Sigmoid));
    assert_eq!(line.overrides.settings, [("k".to_owned(), "v".to_owned())]);
    assert_eq!(line.kept["label"], serde_json::json!([1]));
    assert_eq!(line.documents[1].id, parse("1").ok());
    let with = |field: &str| {
        let json = format!(r#"{{"query": "a", "documents": ["b"], {field}}}"#);
        rules().parse(&json).map(|line| line.overrides.top_n)
    };
    assert_eq!(with(r#""top_n": null, "id": null, "scores": null"#), Ok(None));
    for (field, message) in [
        (r#""top_k": 3"#, "unknown field \"top_k\": a request has id, query, documents, top_n"),
        (r#""top_n": 0"#, "top_n: must be a whole number from 1"),
        (r#""top_n": 1.5"#, "top_n: must be a whole number"),
        (r#""top_n": "2""#, "top_n: must be a whole number"),
        (r#""top_n": 99999999999"#, "top_n: must be a whole number"),
        (r#""scores": "softmax""#, "scores: unknown variant `softmax`, expected `raw` or `sigmoid`"),
        (r#""query": "again""#, "two fields have the name \"query\""),
    ] {
        let error = with(field).unwrap_err();
        assert!(error.contains(message), "{field}: {error}");
    }
}

#[test]
fn a_bad_document_of_a_request_is_named_by_its_index() {
    for (documents, message) in [
        (
            r#"["a", 1]"#,
            "document 1: invalid type: integer `1`, expected a document, which must be a string or an object",
        ),
        (r#"["a", {"title": "t"}]"#, "document 1: has no \"text\" but \"title\""),
        (r#"["a", {"text": "b", "text": "c"}]"#, "document 1: two fields have the name \"text\""),
        (r#""a""#, "expected documents, a list of strings or objects"),
        (r#"["a", "b", "c", "d", "e"]"#, "max_documents is limited to 3, the request has 5"),
    ] {
        let error = rules().parse(&format!(r#"{{"query": "q", "documents": {documents}}}"#)).unwrap_err();
        assert!(error.contains(message), "{documents}: {error}");
    }
    assert_eq!(id_of(r#"{"id": 3, "query": 1}"#), parse("3").ok());
    assert_eq!(id_of(r#"{"id": 3, "query": "#), None);
    assert_eq!(id_of(r#"[3]"#), None);
}

#[test]
fn texts_are_found_by_id_in_every_format_and_number() {
    let files = Files::new();
    let ids: Vec<usize> = (0..1000).map(|n| n * 7 % 1000).collect();
    let lines = |line: &dyn Fn(usize) -> String| ids.iter().map(|&id| line(id)).collect::<Vec<_>>();
    let tsv = lines(&|id| format!("d{id}\t\"text {id}\n")).concat();
    let jsonl = lines(&|id| format!("{{\"_id\": \"d{id}\", \"text\": \"\\\"text {id}\"}}\n")).concat();
    let array = format!("[{}]", lines(&|id| format!("{{\"text\":\"\\\"text {id}\",\n\"id\":\"d{id}\"}}")).join(", "));
    let csv = format!("text,docid\n{}", lines(&|id| format!("\"\"\"text {id}\",d{id}\n")).concat());
    for (name, content) in [("d.tsv", tsv), ("d.jsonl", jsonl), ("d.json", array), ("d.csv", format!("\u{feff}{csv}"))]
    {
        let path = files.write(name, content);
        for most in [None, Some(1), Some(300)] {
            let lookup = Lookup::open(&path, Format::Auto, Header::Guess, Fields::new(&[]), most, |_| {});
            let mut lookup = lookup.map_err(|error| format!("{name}: {error}")).unwrap();
            for id in [0, 1, 255, 256, 511, 512, 999] {
                assert_eq!(lookup.get(&format!("d{id}")).unwrap(), format!("\"text {id}"), "{name} {most:?}");
            }
            assert!(matches!(lookup.get("d1000"), Err(LookupError::Missing(_))), "{name}");
        }
    }
    let path = files.write("twice.tsv", "a\tx\nb\ty\na\tz\n");
    let mut lookup = Lookup::open(&path, Format::Auto, Header::Guess, Fields::new(&[]), Some(2), |_| {}).unwrap();
    assert!(matches!(lookup.get("a"), Err(LookupError::Twice(_))));
    assert_eq!(lookup.get("b").unwrap(), "y");
}

#[test]
fn a_collection_that_cannot_be_looked_up_is_refused() {
    let files = Files::new();
    for (name, content, message) in [
        ("a.tsv", "1\ta\tb\n2\tc\td\n", "has no \"text\" but \"1\", \"a\", \"b\""),
        ("b.jsonl", "{\"text\": \"a\"}\n", "line 1: has no id: choose one with --field id=NAME"),
        ("c.txt", "<top>\n<num> Number: 301\n", "begins with '<'"),
    ] {
        let path = files.write(name, content);
        let lookup = Lookup::open(&path, Format::Auto, Header::Guess, Fields::new(&[]), None, |_| {});
        let error = lookup.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(message), "{name}: {error}");
    }
}

#[test]
fn a_run_has_six_columns() {
    let line = trec::parse_text("301 Q0\tFR940202-2-00150  1 9.5 bm25").unwrap();
    assert_eq!((line.query_id.as_str(), line.document_id.as_str()), ("301", "FR940202-2-00150"));
    for (line, message) in [
        ("301 0 FR1 1", "relevance judgements (qrels)"),
        ("301 Q0 FR1 1 9.5", "has 5 columns"),
        ("301 Q0 FR1 x 9.5 t", "no rank and score"),
        ("a b c d e f g h", "more than 6 columns"),
    ] {
        assert!(trec::parse_text(line).unwrap_err().contains(message), "{line}");
    }
}

/// A cell as in RFC 4180.
fn quoted(cell: &str) -> String {
    format!("\"{}\"", cell.replace('"', "\"\""))
}

const FORMATS: [Format; 5] = [Format::Lines, Format::Jsonl, Format::Json, Format::Csv, Format::Tsv];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Arbitrary texts survive each format unchanged and are found by their ids.
    #[test]
    fn any_texts_are_read_as_they_were_written(texts in prop::collection::vec("[\\PC\"\\\\,;\t\n\\[\\]{}]{0,12}", 1..6)) {
        let files = Files::new();
        let objects: Vec<serde_json::Value> =
            texts.iter().enumerate().map(|(id, text)| serde_json::json!({ "id": id, "text": text })).collect();
        let expected: Vec<String> = texts.iter().enumerate().map(|(id, text)| format!("{id}={text}")).collect();
        let jsonl: String = objects.iter().map(|object| object.to_string() + "\n").collect();
        let compact = serde_json::to_string(&objects).unwrap();
        let pretty = serde_json::to_string_pretty(&objects).unwrap();
        let rows: String = texts.iter().enumerate().map(|(id, text)| format!("{id},{}\n", quoted(text))).collect();
        for (name, content) in [
            ("d.jsonl", jsonl), ("d.json", compact), ("pretty.json", pretty), ("d.csv", format!("id,text\n{rows}")),
        ] {
            prop_assert_eq!(&files.documents(name, content).unwrap(), &expected, "{}", name);
            let path = files.0.path().join(name);
            let mut lookup = Lookup::open(&path, Format::Auto, Header::Guess, Fields::new(&[]), Some(2), |_| {})
                .map_err(|error| TestCaseError::fail(error.to_string()))?;
            for (id, text) in texts.iter().enumerate() {
                prop_assert_eq!(&lookup.get(&id.to_string()).unwrap(), text, "{}", name);
            }
        }
    }

    /// Arbitrary bytes in any format: reading ends without a panic, and places only increase.
    #[test]
    fn any_bytes_come_to_an_end(bytes in prop::collection::vec(
        prop_oneof![any::<u8>(), prop::sample::select(b"[]{},;\"\\\n\r\t: a1".to_vec())], 0..80))
    {
        let files = Files::new();
        let path = files.write("d", &bytes);
        for format in FORMATS {
            let Ok(file) = OpenFile::open(&path, format, Format::Lines) else { continue };
            let Ok((mut records, _)) = file.records(Header::FirstRow, &Fields::new(&[])) else { continue };
            let (mut at, mut read) = (0, 0);
            while let Some(record) = records.read() {
                let end = record.as_ref().map_or_else(|fault| fault.end, |record| record.end);
                prop_assert!(end >= at && end <= bytes.len() as u64);
                (at, read) = (end, read + 1);
                // A file without records has one fault.
                prop_assert!(read <= bytes.len() + 1);
                if matches!(record, Err(Fault { reach: Reach::File, .. })) {
                    break;
                }
            }
        }
    }

    /// JSON that is nearly a request gives an answer or a message.
    #[test]
    fn any_request_is_read_or_refused_in_words(
        name in prop::sample::select(vec!["id", "query", "documents", "top_n", "settings", "model", "label", "x"]),
        value in prop::sample::select(vec!["null", "1", "-1.5", "\"a\"", "[]", "{}", "[[]]", "{\"k\": 1}", "1e400", "tru"]),
        cut in 0usize..120,
    ) {
        let json = format!(r#"{{"query": "q", "documents": ["a", {{"text": "b"}}], "{name}": {value}}}"#);
        if let Err(message) = rules().parse(json.get(..cut).unwrap_or(&json)) {
            prop_assert!(!message.is_empty() && !message.contains("line 1"), "{}", message);
        }
    }
}
