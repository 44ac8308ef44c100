//! The pipe: read records, echo them, append our own, inside `begin` and `end`.

use crate::{
    Report, Window,
    records::{Record, WindowRecord},
};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};
use std::{
    io::{BufRead, Read, Write},
    time::Instant,
};

/// The longest line and the most input that a tool reads from a pipe, in bytes. Lines are kept as text and parsed as what they
/// are needed for, so a tool holds what it read once, and one parsed record.
const LINE_CAP: u64 = 4 << 20;
const INPUT_CAP: u64 = 128 << 20;
/// The most records: each takes some 150 bytes beside its text.
const RECORDS_CAP: u64 = 1 << 20;

/// One tool's end of the pipe.
pub struct Stream<'a> {
    tool: &'static str,
    version: &'static str,
    input: Option<Box<dyn BufRead + 'a>>,
    output: Box<dyn Write + 'a>,
    started: Instant,
    begun: bool,
    read: u64,
    written: u64,
}

/// What was read: the records in their order.
#[derive(Default)]
pub struct Inputs {
    records: Vec<Line>,
    /// Whether every record lay between a `begin` and its `end`, and the last line was an `end`.
    pub closed: bool,
    /// Whether there was any record at all.
    pub any: bool,
}

/// A record as it came.
struct Line {
    number: usize,
    kind: String,
    text: Box<str>,
}

/// What the frame is made of: all else of a line is parsed where it is used.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type")]
    kind: String,
    /// A word in what frames a stream; elsewhere it may be anything.
    #[serde(borrow)]
    tool: Option<&'a RawValue>,
}

impl Head<'_> {
    fn tool(&self) -> Option<String> {
        serde_json::from_str(self.tool?.get()).ok()
    }
}

/// The frame of a stream, as its lines go by.
#[derive(Default)]
struct Frame {
    /// Who began and has not ended.
    open: Option<String>,
    /// A record lay outside of every frame.
    bare: bool,
    /// The last line was an `end`.
    ended: bool,
}

impl Frame {
    /// The next line is of this type and tool.
    ///
    /// # Errors
    /// When a stream was cut: what began and did not end before another begins, or an end of what did not begin.
    fn next(&mut self, kind: &str, tool: Option<String>) -> Result<(), Report> {
        let named = tool.unwrap_or_else(|| "a tool".into());
        self.ended = kind == "end";
        match (kind, self.open.take()) {
            ("begin", None) => self.open = Some(named),
            ("begin", Some(open)) => return Err(cut(&open).hint(format!("{named} begins inside of it"))),
            ("end", Some(open)) if open == named => {}
            ("end", Some(open)) => return Err(cut(&open).hint(format!("{named} ends inside of it"))),
            ("end", None) => {
                return Err(Report::data(format!(
                    "the input is the rest of a stream: {named} ended it and did not begin it"
                ))
                .hint("pass the stream whole, or records alone: jq -c 'select(.type==\"delta\")'"));
            }
            (_, open) => {
                self.bare |= open.is_none();
                self.open = open;
            }
        }
        Ok(())
    }

    /// Half a stream that got an `end` of our own would look whole to the next stage.
    fn finish(&self) -> Result<(), Report> {
        self.open.as_deref().map_or(Ok(()), |open| Err(cut(open)))
    }
}

fn unreadable(number: usize, error: &std::io::Error) -> Report {
    if error.kind() == std::io::ErrorKind::IsADirectory {
        return Report::data("the input is a folder").hint("name a file of records: < FILE, or pipe one");
    }
    Report::data(format!("line {number} of the input: {error}")).hint("the input is a file of records, or a pipe")
}

fn cut(tool: &str) -> Report {
    Report::data(format!("the input breaks off: {tool} began it and did not end it"))
        .hint(format!("{tool} failed: its own error says why"))
}

impl<'a> Stream<'a> {
    /// A stream of `tool`; `input` is absent where stdin is a terminal.
    pub fn new(
        tool: &'static str,
        version: &'static str,
        input: Option<Box<dyn BufRead + 'a>>,
        output: Box<dyn Write + 'a>,
    ) -> Self {
        Stream { tool, version, input, output, started: Instant::now(), begun: false, read: 0, written: 0 }
    }

    /// The tool's name.
    pub fn tool(&self) -> &'static str {
        self.tool
    }

    fn line(&mut self, line: &str) -> Result<(), Report> {
        self.output
            .write_all(line.as_bytes())
            .and_then(|()| self.output.write_all(b"\n"))
            .and_then(|()| self.output.flush())
            .map_err(|e| Report::output(&e))
    }

    fn begin(&mut self) -> Result<(), Report> {
        if self.begun {
            return Ok(());
        }
        self.begun = true;
        let facts = json!({"v": 1, "tool": self.tool, "version": self.version});
        self.line(&typed("begin", &facts.to_string()))
    }

    /// Read all records, echoing each as it came; an `end` becomes a `step`.
    ///
    /// # Errors
    /// A line that is no JSON object with a `type`, or over the cap: exit code 65.
    pub fn read(&mut self) -> Result<Inputs, Report> {
        self.begin()?;
        let mut inputs = Inputs::default();
        let Some(input) = self.input.take() else { return Ok(inputs) };
        let mut input = input.take(INPUT_CAP);
        let (mut line, mut frame) = (Vec::new(), Frame::default());
        for number in 1.. {
            line.clear();
            let read = (&mut input).take(LINE_CAP).read_until(b'\n', &mut line).map_err(|e| unreadable(number, &e))?;
            if input.limit() == 0 {
                return Err(Report::data(format!("the input is longer than {INPUT_CAP} bytes"))
                    .hint("split it by window with jq"));
            }
            if read == 0 {
                break;
            }
            if read as u64 == LINE_CAP && line.last() != Some(&b'\n') {
                let error = format!("line {number} of the input is longer than {LINE_CAP} bytes");
                return Err(Report::data(error).hint("the input is one record a line; look at it with: head -c 1000"));
            }
            let text = std::str::from_utf8(&line)
                .map_err(|e| {
                    Report::data(format!("line {number} of the input is not UTF-8: {e}"))
                        .hint("the input is one record a line; look at it with: head -c 1000 | xxd")
                })?
                .trim();
            if text.is_empty() {
                continue;
            }
            let head = head(number, text)?;
            inputs.any = true;
            self.read += 1;
            if self.read > RECORDS_CAP {
                return Err(Report::data(format!("the input has more than {RECORDS_CAP} records"))
                    .hint("split it by window with jq"));
            }
            frame.next(&head.kind, head.tool())?;
            match head.kind.as_str() {
                "begin" => {}
                "end" => {
                    let step = typed("step", &without_type(text)?);
                    self.line(&step)?;
                    inputs.records.push(Line { number, kind: "step".into(), text: step.into() });
                }
                _ => {
                    self.line(text)?;
                    inputs.records.push(Line { number, kind: head.kind, text: text.into() });
                }
            }
        }
        frame.finish()?;
        inputs.closed = frame.ended && !frame.bare;
        Ok(inputs)
    }

    /// The input as it is, for a command that reads a file from it instead of records.
    pub fn take_input(&mut self) -> Option<Box<dyn BufRead + 'a>> {
        self.input.take()
    }

    /// Append a record.
    ///
    /// # Errors
    /// When the output is closed.
    pub fn emit<R: Record>(&mut self, record: &R) -> Result<(), Report> {
        self.begin()?;
        self.written += 1;
        self.line(&line_of(record)?)
    }

    /// How many records were read and written, for who wants to know more.
    pub fn counted(&self) -> (u64, u64) {
        (self.read, self.written)
    }

    /// Close the stream: what was asked is done. A command that neither read nor wrote records has none to close.
    ///
    /// # Errors
    /// When the output is closed.
    pub fn end(&mut self) -> Result<(), Report> {
        if !self.begun {
            return Ok(());
        }
        let wall_s = (self.started.elapsed().as_secs_f64() * 1e3).round() / 1e3;
        let end = json!({"v": 1, "tool": self.tool, "version": self.version, "wall_s": wall_s});
        self.line(&typed("end", &end.to_string()))
    }
}

/// The JSON line of a record, its `type` first.
///
/// # Errors
/// When the value has no JSON form.
pub fn line_of<R: Record>(record: &R) -> Result<String, Report> {
    let body = serde_json::to_string(record).map_err(|e| Report::new(crate::Code::Bug, e))?;
    Ok(typed(R::TYPE, &body))
}

/// The parts of a line that the frame needs.
fn head(number: usize, text: &str) -> Result<Head<'_>, Report> {
    // An array would be taken for the fields of a structure in their order.
    if !text.starts_with('{') {
        return Err(Report::data(format!("line {number} of the input is not a JSON object"))
            .hint("the input is one record a line; look at it with: jq -c ."));
    }
    serde_json::from_str(text).map_err(|e| {
        if e.is_data() {
            return Report::data(format!("line {number} of the input is no record: {e}"))
                .hint("a record is an object such as {\"type\":\"window\",…}");
        }
        Report::data(format!("line {number} of the input is not a JSON object: {e}"))
            .hint("the input is one record a line; look at it with: jq -c .")
    })
}

/// A short record's text without its type.
fn without_type(text: &str) -> Result<String, Report> {
    if text.len() > 4096 {
        return Err(Report::data("an `end` record of more than 4096 bytes"));
    }
    let mut record: Map<String, Value> = serde_json::from_str(text).map_err(Report::data)?;
    record.remove("type");
    serde_json::to_string(&record).map_err(Report::data)
}

/// A JSON object's text with its type before all else.
pub(crate) fn typed(kind: &str, object: &str) -> String {
    let rest = object.strip_prefix('{').unwrap_or(object);
    let comma = if rest == "}" { "" } else { "," };
    format!("{{\"type\":\"{kind}\"{comma}{rest}")
}

/// The records of a receipt that was kept.
///
/// # Errors
/// When the file cannot be read or holds no records.
pub fn read_file(path: &std::path::Path) -> Result<Inputs, Report> {
    let file = std::fs::File::open(path).map_err(|e| crate::files::io_report("open", path, &e))?;
    let input = Box::new(std::io::BufReader::new(file));
    Stream::new("", "", Some(input), Box::new(std::io::sink())).read().map_err(|e| e.at(path.display()))
}

impl Inputs {
    /// All records of one type, in their order.
    ///
    /// # Errors
    /// A field that is missing or wrong: exit code 65, with its line and name.
    pub fn all<R: Record>(&self) -> Result<Vec<R>, Report> {
        let of_type = self.records.iter().filter(|line| line.kind == R::TYPE);
        let parse = |line: &Line| {
            serde_json::from_str(&line.text).map_err(|e| {
                Report::data(format!("line {} of the input, a `{}` record: {e}", line.number, R::TYPE))
                    .hint("tools/README.md lists the fields of every record type")
            })
        };
        of_type.map(parse).collect()
    }

    /// Whether a record of this type is among them.
    pub fn has<R: Record>(&self) -> bool {
        self.records.iter().any(|line| line.kind == R::TYPE)
    }

    /// Whether the stream went through this tool.
    pub fn passed(&self, tool: &str) -> bool {
        let by = |line: &&Line| {
            serde_json::from_str::<Head>(&line.text).is_ok_and(|head| head.tool().as_deref() == Some(tool))
        };
        self.records.iter().filter(|line| line.kind == "step").any(|line| by(&line))
    }

    /// The last record of one type.
    ///
    /// # Errors
    /// As [`Inputs::all`].
    pub fn last<R: Record>(&self) -> Result<Option<R>, Report> {
        Ok(self.all::<R>()?.pop())
    }

    /// The last record of one type, which has to be there.
    ///
    /// # Errors
    /// As [`Inputs::all`], or when there is none; `from` says which stage makes it.
    pub fn need<R: Record>(&self, from: &str) -> Result<R, Report> {
        self.last()?.ok_or_else(|| {
            Report::data(format!("the input has no `{}` record", R::TYPE)).hint(format!("it comes from {from}"))
        })
    }

    /// The window that this stream is about: its last `window` record.
    ///
    /// # Errors
    /// As [`Inputs::need`].
    pub fn window(&self) -> Result<WindowRecord, Report> {
        self.need("bz-window --window W")
    }

    /// The records of one type that belong to a window; of several for one key, the last.
    ///
    /// # Errors
    /// As [`Inputs::all`].
    pub fn latest<R: Record, K: Ord>(
        &self,
        window: Window,
        of: impl Fn(&R) -> (Window, K),
    ) -> Result<std::collections::BTreeMap<K, R>, Report> {
        let mut latest = std::collections::BTreeMap::new();
        for record in self.all::<R>()? {
            let (its, key) = of(&record);
            if its == window {
                latest.insert(key, record);
            }
        }
        Ok(latest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Code, records::Pull};

    fn run(input: &str) -> (Result<Inputs, Report>, String) {
        let mut out = Vec::new();
        let mut stream = Stream::new("bz-test", "1", Some(Box::new(input.as_bytes())), Box::new(&mut out));
        let inputs = stream.read().and_then(|inputs| stream.end().map(|()| inputs));
        drop(stream);
        (inputs, String::from_utf8(out).unwrap())
    }

    #[test]
    fn unknown_records_and_fields_pass_through_and_end_becomes_step() {
        let (inputs, out) = run("{\"type\":\"new\", \"x\": 1e999999999999999999e}\n");
        assert_eq!(inputs.err().unwrap().code, Code::Data, "{out}");
        let (inputs, out) = run(
            "{\"type\":\"begin\",\"tool\":\"a\"}\n{\"type\":\"new\",  \"x\":1}\n\n{\"type\":\"end\",\"tool\":\"a\"}\n",
        );
        let inputs = inputs.unwrap();
        assert!(inputs.closed && inputs.passed("a") && !inputs.passed("b"));
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[1], "{\"type\":\"new\",  \"x\":1}", "echoed as it came");
        assert_eq!(lines[2], "{\"type\":\"step\",\"tool\":\"a\"}");
        assert!(lines[0].contains("begin") && lines[3].contains("\"end\""));
    }

    #[test]
    fn half_a_stream_is_refused() {
        let (inputs, out) = run("{\"type\":\"begin\",\"tool\":\"bz-x\"}\n{\"type\":\"x\"}\n");
        assert!(inputs.err().unwrap().error.contains("bz-x began it"), "{out}");
        assert!(!out.contains("\"end\""));
        // Two streams of which the first was cut, the end of another's, an end alone.
        for (halves, words) in [
            (
                [
                    r#"{"type":"begin","tool":"bz-x"}"#,
                    r#"{"type":"begin","tool":"bz-y"}"#,
                    r#"{"type":"end","tool":"bz-y"}"#,
                ],
                "bz-x began it",
            ),
            (
                [r#"{"type":"begin","tool":"bz-x"}"#, r#"{"type":"x"}"#, r#"{"type":"end","tool":"bz-y"}"#],
                "bz-x began it",
            ),
            ([r#"{"type":"x"}"#, r#"{"type":"x"}"#, r#"{"type":"end","tool":"bz-y"}"#], "did not begin it"),
        ] {
            let (inputs, out) = run(&halves.join("\n"));
            assert!(inputs.err().unwrap().error.contains(words), "{halves:?}");
            assert!(!out.contains("\"end\""));
        }
    }

    #[test]
    fn a_stream_is_closed_where_every_record_lies_in_a_frame() {
        let whole = "{\"type\":\"begin\",\"tool\":\"a\"}\n{\"type\":\"x\"}\n{\"type\":\"end\",\"tool\":\"a\"}\n";
        let bare = "{\"type\":\"x\"}\n";
        let closed = |input: &str| run(input).0.unwrap().closed;
        assert!(closed(whole) && closed(&whole.repeat(2)));
        assert!(
            !closed(bare) && !closed("") && !closed(&format!("{whole}{bare}")) && !closed(&format!("{bare}{whole}"))
        );
    }

    #[test]
    fn a_missing_field_is_named_with_its_line() {
        let (inputs, _) = run("{\"type\":\"x\"}\n{\"type\":\"pull\",\"window\":3}\n");
        let report = inputs.unwrap().all::<Pull>().unwrap_err();
        assert_eq!(report.code, Code::Data);
        assert!(report.error.contains("line 2") && report.error.contains("`uid`"), "{report}");
    }

    #[test]
    fn noise_is_refused_not_believed() {
        for noise in ["[]\n", "[\"x\",\"y\"]\n", "1\n", "{\"a\":1}\n", "{", "\u{1}\u{2}", "{\"type\":7}\n"] {
            let (inputs, _) = run(noise);
            assert_eq!(inputs.err().map(|r| r.code), Some(Code::Data), "{noise:?}");
        }
        let (inputs, _) = run(&"x".repeat(LINE_CAP as usize + 10));
        assert!(inputs.err().unwrap().error.contains("longer"));
    }
}
