//! The pipe: read records, echo them, append our own, inside `begin` and `end`.

use crate::{
    Report, Window,
    records::{Record, WindowRecord},
};
use serde_json::{Map, Value, json};
use std::{
    io::{BufRead, Read, Write},
    time::Instant,
};

/// The longest line and the most input that a tool reads from a pipe, in bytes.
const LINE_CAP: u64 = 4 << 20;
const INPUT_CAP: u64 = 256 << 20;

/// One tool's end of the pipe.
pub struct Stream<'a> {
    tool: &'static str,
    version: &'static str,
    input: Option<Box<dyn BufRead + 'a>>,
    output: Box<dyn Write + 'a>,
    started: Instant,
    begun: bool,
}

/// What was read: the records in their order.
#[derive(Default)]
pub struct Inputs {
    records: Vec<(usize, Map<String, Value>)>,
    /// Whether the stream was closed by an `end`.
    pub closed: bool,
    /// Whether there was any record at all.
    pub any: bool,
}

impl<'a> Stream<'a> {
    /// A stream of `tool`; `input` is absent where stdin is a terminal.
    pub fn new(
        tool: &'static str,
        version: &'static str,
        input: Option<Box<dyn BufRead + 'a>>,
        output: Box<dyn Write + 'a>,
    ) -> Self {
        Stream { tool, version, input, output, started: Instant::now(), begun: false }
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
        let (mut line, mut open) = (Vec::new(), None);
        for number in 1.. {
            line.clear();
            let read = (&mut input)
                .take(LINE_CAP)
                .read_until(b'\n', &mut line)
                .map_err(|e| Report::data(format!("line {number} of the input: {e}")))?;
            if read == 0 {
                if input.limit() == 0 {
                    return Err(Report::data(format!("the input is longer than {INPUT_CAP} bytes"))
                        .hint("split it by window with jq"));
                }
                break;
            }
            if read as u64 == LINE_CAP && line.last() != Some(&b'\n') {
                return Err(Report::data(format!("line {number} of the input is longer than {LINE_CAP} bytes")));
            }
            let text = std::str::from_utf8(&line)
                .map_err(|e| Report::data(format!("line {number} of the input is not UTF-8: {e}")))?
                .trim();
            if text.is_empty() {
                continue;
            }
            let record: Map<String, Value> = serde_json::from_str(text).map_err(|e| {
                Report::data(format!("line {number} of the input is not a JSON object: {e}"))
                    .hint("the input is one record a line; look at it with: jq -c .")
            })?;
            inputs.any = true;
            inputs.closed = false;
            match record.get("type").and_then(Value::as_str) {
                None => {
                    return Err(Report::data(format!("line {number} of the input has no `type`"))
                        .hint("a record is an object such as {\"type\":\"window\",…}"));
                }
                Some("begin") => open = record.get("tool").and_then(Value::as_str).map(str::to_string),
                Some("end") => {
                    inputs.closed = true;
                    open = None;
                    let mut step = record;
                    step.remove("type");
                    let step = serde_json::to_string(&step).unwrap_or_default();
                    self.line(&typed("step", &step))?;
                }
                Some(_) => {
                    let text = text.to_string();
                    self.line(&text)?;
                    inputs.records.push((number, record));
                }
            }
        }
        match open {
            // Half a stream that got an `end` of our own would look whole to the next stage.
            Some(tool) => Err(Report::data(format!("the input breaks off: {tool} began it and did not end it"))
                .hint(format!("{tool} failed: its own error says why"))),
            None => Ok(inputs),
        }
    }

    /// Append a record.
    ///
    /// # Errors
    /// When the output is closed.
    pub fn emit<R: Record>(&mut self, record: &R) -> Result<(), Report> {
        self.begin()?;
        self.line(&line_of(record)?)
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

/// A JSON object's text with its type before all else.
fn typed(kind: &str, object: &str) -> String {
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
        self.records
            .iter()
            .filter(|(_, record)| record.get("type").and_then(Value::as_str) == Some(R::TYPE))
            .map(|(number, record)| {
                serde_json::from_value(Value::Object(record.clone())).map_err(|e| {
                    Report::data(format!("line {number} of the input, a `{}` record: {e}", R::TYPE))
                        .hint("tools/README.md lists the fields of every record type")
                })
            })
            .collect()
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
        let (inputs, out) = run("{\"type\":\"new\",  \"x\":1}\n\n{\"type\":\"end\",\"tool\":\"a\"}\n");
        assert!(inputs.unwrap().closed);
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
    }

    #[test]
    fn a_stream_that_goes_on_after_its_end_is_not_closed() {
        let (inputs, _) = run("{\"type\":\"end\"}\n{\"type\":\"x\"}\n");
        assert!(!inputs.unwrap().closed);
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
        for noise in ["[]\n", "1\n", "{\"a\":1}\n", "{", "\u{1}\u{2}", "{\"type\":7}\n"] {
            let (inputs, _) = run(noise);
            assert_eq!(inputs.err().map(|r| r.code), Some(Code::Data), "{noise:?}");
        }
        let (inputs, _) = run(&"x".repeat(LINE_CAP as usize + 10));
        assert!(inputs.err().unwrap().error.contains("longer"));
    }
}
