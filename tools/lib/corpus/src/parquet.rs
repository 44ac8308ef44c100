//! Parquet files: a row is the string in one column, or nothing where that is NULL.

use ::parquet::{
    basic::{ConvertedType, Repetition},
    file::{reader::FileReader, serialized_reader::SerializedFileReader},
    record::RowAccessor,
    schema::types::Type,
};
use record::{Report, files};
use std::{fmt::Display, fs::File, ops::Range, path::Path};

/// Number of rows of a file that has such a column; its first row is read, since a file may be packed as nothing here
/// unpacks.
pub(crate) fn count(path: &Path, field: &str) -> Result<u64, Report> {
    let reader = open(path)?;
    column(&reader, field).map_err(|e| e.at(path.display()))?;
    let rows = reader.metadata().file_metadata().num_rows().max(0) as u64;
    read(path, field, 0..rows.min(1), &mut Vec::new())?;
    Ok(rows)
}

/// Append rows; fewer where the file ends before.
pub(crate) fn read(path: &Path, field: &str, rows: Range<u64>, texts: &mut Vec<String>) -> Result<(), Report> {
    let reader = open(path)?;
    let schema = column(&reader, field).map_err(|e| e.at(path.display()))?;
    let (mut start, mut left) = (0u64, rows.end.saturating_sub(rows.start));
    for index in 0..reader.num_row_groups() {
        let group = reader.get_row_group(index).map_err(|e| damaged(path, &e))?;
        let end = start.saturating_add(group.metadata().num_rows().max(0) as u64);
        if rows.start < end && left > 0 {
            let skip = rows.start.saturating_sub(start);
            let iter = group.get_row_iter(Some(schema.clone())).map_err(|e| damaged(path, &e))?;
            for row in iter.skip(skip as usize).take(left as usize) {
                let row = row.map_err(|e| damaged(path, &e))?;
                // A NULL counts as a row: the others keep their places.
                let text =
                    row.is_null(0).and_then(|null| if null { Ok("") } else { row.get_string(0).map(String::as_str) });
                texts.push(text.map_err(|e| damaged(path, &format!("column `{field}`: {e}")))?.to_string());
                left -= 1;
            }
        }
        start = end;
    }
    Ok(())
}

fn open(path: &Path) -> Result<SerializedFileReader<File>, Report> {
    let file = File::open(path).map_err(|e| files::io_report("open", path, &e))?;
    SerializedFileReader::new(file).map_err(|e| damaged(path, &e))
}

/// What its own library says of a file that it cannot read.
fn damaged(path: &Path, error: &impl Display) -> Report {
    Report::data(format!("{}: {error}", path.display()))
        .hint("the file is damaged or cut short: get it again, or move it out of the folder")
}

/// The schema of the one column that holds the text.
fn column(reader: &SerializedFileReader<File>, field: &str) -> Result<Type, Report> {
    let schema = reader.metadata().file_metadata().schema();
    let fields: Vec<_> = schema.get_fields().iter().filter(|f| f.name() == field).cloned().collect();
    let hint = "bz-pages index --field NAME says which column holds the text";
    let Some(found) = fields.first() else {
        let names: Vec<_> = schema.get_fields().iter().map(|f| f.name().to_string()).collect();
        return Err(Report::data(format!("there is no column `{field}`, only {names:?}")).hint(hint));
    };
    let info = found.get_basic_info();
    let strings = [ConvertedType::UTF8, ConvertedType::ENUM, ConvertedType::JSON];
    let one_each = info.has_repetition() && info.repetition() != Repetition::REPEATED;
    if !found.is_primitive() || !one_each || !strings.contains(&info.converted_type()) {
        return Err(Report::data(format!("the column `{field}` holds no strings")).hint(hint));
    }
    let one = Type::group_type_builder(schema.name()).with_fields(fields).build();
    one.map_err(|e| Report::data(format!("the parquet schema: {e}")).hint(hint))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ::parquet::{data_type::ByteArrayType, file::writer::SerializedFileWriter, schema::parser::parse_message_type};

    /// A file of one column of strings, 20 rows a group.
    pub(crate) fn write(path: &Path, rows: &[Option<&str>]) {
        let schema = parse_message_type("message m { OPTIONAL BINARY body (UTF8); }").unwrap();
        let file = File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, std::sync::Arc::new(schema), Default::default()).unwrap();
        for chunk in rows.chunks(20) {
            let mut group = writer.next_row_group().unwrap();
            let mut body = group.next_column().unwrap().unwrap();
            let values: Vec<_> = chunk.iter().flatten().map(|row| (*row).into()).collect();
            let levels: Vec<i16> = chunk.iter().map(|row| i16::from(row.is_some())).collect();
            body.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            body.close().unwrap();
            group.close().unwrap();
        }
        writer.close().unwrap();
    }

    #[test]
    fn a_null_is_an_empty_row_and_moves_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let texts: Vec<String> = (0..57).map(|i| format!("row {i}")).collect();
        let rows: Vec<Option<&str>> =
            texts.iter().enumerate().map(|(i, row)| (i % 3 != 1).then_some(row.as_str())).collect();
        write(&path, &rows);
        assert_eq!(count(&path, "body").unwrap(), 57);
        let expected: Vec<&str> = rows.iter().map(|row| row.unwrap_or_default()).collect();
        for rows in [0..57, 0..1, 1..2, 18..43, 40..41, 55..99] {
            let mut some = Vec::new();
            read(&path, "body", rows.clone(), &mut some).unwrap();
            assert_eq!(some, expected[rows.start as usize..(rows.end as usize).min(57)], "{rows:?}");
        }
    }

    #[test]
    fn a_column_of_something_else_is_refused_when_it_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let message = "message m { REQUIRED INT32 n; OPTIONAL BINARY raw; REPEATED BINARY many (UTF8);
            REQUIRED GROUP inner { REQUIRED BINARY body (UTF8); } }";
        let schema = parse_message_type(message).unwrap();
        let file = File::create(&path).unwrap();
        SerializedFileWriter::new(file, std::sync::Arc::new(schema), Default::default()).unwrap().close().unwrap();
        for field in ["n", "raw", "many", "inner"] {
            let report = count(&path, field).unwrap_err();
            assert!(report.error.contains(&format!("a.parquet: the column `{field}` holds no strings")), "{report}");
        }
        let report = count(&path, "body").unwrap_err();
        assert!(report.error.contains(r#"no column `body`, only ["n", "raw", "many", "inner"]"#), "{report}");
        std::fs::write(&path, "PAR1 not quite PAR1").unwrap();
        assert_eq!(count(&path, "n").unwrap_err().code, record::Code::Data);
    }
}
