//! The answer to a query: "Text Resultset" of the protocol documentation.
//!
//! ```text
//! number of columns │ a definition for each │ EOF │ rows… │ EOF, or an error
//! OK, or an error, instead of all that
//! ```

use super::greeting::error;
use super::packet::Cursor;
use super::{Fault, ServerError};
use crate::base::limits::{
    MYSQL_ANSWER_MAX as ANSWER_MAX, MYSQL_COLUMNS_MAX as COLUMNS_MAX, MYSQL_ROWS_MAX as ROWS_MAX,
};

/// How much of a column's name is kept: MySQL allows 64 characters, and no name we look for is longer than that.
const COLUMN_BYTES_MAX: usize = 256;
/// Most names of columns are no longer than this.
const COLUMN_BYTES: usize = 24;
/// How packets begin that are OK, or the end of something.
const OK: u8 = 0;
const EOF: u8 = 0xFE;
/// Longest payload of an EOF packet; a longer one that begins alike is a row.
const EOF_MAX: usize = 9;

/// A table of values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    columns: Words,
    rows: Vec<Words>,
}

/// Words in a row, some of which may be missing: in one piece, and as they came, for an answer about replication has some
/// hundred, of which four are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Words {
    bytes: Vec<u8>,
    /// Where each ends, and whether there is one.
    ends: Vec<(usize, bool)>,
}

impl Words {
    fn with_room(words: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(words) }
    }

    fn of<'a>(words: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        let mut all = Self::default();
        words.into_iter().for_each(|word| all.push(word.map(str::as_bytes)));
        all
    }

    fn push(&mut self, word: Option<&[u8]>) {
        self.bytes.extend_from_slice(word.unwrap_or_default());
        self.ends.push((self.bytes.len(), word.is_some()));
    }

    /// Outer `None`: there are not so many; inner: it is missing.
    fn get(&self, index: usize) -> Option<Option<&[u8]>> {
        let &(end, is_there) = self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before].0);
        Some(is_there.then(|| &self.bytes[start..end]))
    }

    fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        (0..self.ends.len()).map_while(|index| self.get(index))
    }
}

/// A value as text; one that is none is like no value we look for.
fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value).unwrap_or("?")
}

impl Table {
    /// A table of these columns and rows, for those who answer in a server's place.
    pub fn of(columns: &[&str], rows: &[&[Option<&str>]]) -> Self {
        let rows = rows.iter().map(|row| Words::of(row.iter().copied())).collect();
        Self { columns: Words::of(columns.iter().map(|&name| Some(name))), rows }
    }

    /// Its rows.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|values| Row { columns: &self.columns, values })
    }
}

/// A row of a table.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    columns: &'a Words,
    values: &'a Words,
}

impl<'a> Row<'a> {
    /// The value in the column of this name, in any case of letters. Outer `None`: there is no such column; inner: NULL.
    pub fn named(&self, name: &str) -> Option<Option<&'a str>> {
        let is_it = |column: Option<&[u8]>| column.is_some_and(|column| column.eq_ignore_ascii_case(name.as_bytes()));
        Some(self.values.get(self.columns.iter().position(is_it)?)?.map(text))
    }

    /// All values, in the order in which they were asked for.
    pub fn values(&self) -> impl Iterator<Item = Option<&'a str>> {
        self.values.iter().map(|value| value.map(text))
    }
}

/// An answer that is being read.
#[derive(Debug, Default)]
pub(super) struct Reading {
    table: Table,
    stage: Stage,
    bytes: usize,
    is_followed: bool,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Head,
    Columns {
        left: usize,
    },
    ColumnsEnd,
    Rows,
}

/// What a query came to.
pub(super) type Answer = Result<Table, ServerError>;

impl Reading {
    /// Whether the answer to another question follows this one.
    pub(super) fn is_followed(&self) -> bool {
        self.is_followed
    }

    /// Takes the next packet; the answer when it was the last.
    pub(super) fn take(&mut self, payload: &[u8]) -> Result<Option<Answer>, Fault> {
        const UNREADABLE: Fault = Fault::Malformed("the answer to a query");
        if !matches!(self.stage, Stage::Columns { .. })
            && let Some(error) = error(payload)
        {
            return Ok(Some(Err(error)));
        }
        match self.stage {
            Stage::Head => {
                if let Some(ok) = payload.strip_prefix(&[OK]) {
                    self.is_followed = status_of_ok(ok).is_some_and(tells_of_more);
                    return Ok(Some(Ok(Table::default())));
                }
                let count = Cursor::new(payload).number().and_then(|count| usize::try_from(count).ok());
                match count.ok_or(UNREADABLE)? {
                    0 => return Err(UNREADABLE),
                    count if count > COLUMNS_MAX => return Err(Fault::TooLarge("the number of columns")),
                    left => {
                        self.table.columns = Words::with_room(left, left * COLUMN_BYTES);
                        self.stage = Stage::Columns { left };
                    }
                }
            }
            Stage::Columns { left } => {
                self.table.columns.push(Some(column(payload).ok_or(UNREADABLE)?));
                self.stage = if left > 1 { Stage::Columns { left: left - 1 } } else { Stage::ColumnsEnd };
            }
            Stage::ColumnsEnd if is_eof(payload) => self.stage = Stage::Rows,
            Stage::ColumnsEnd => return Err(UNREADABLE),
            Stage::Rows if is_eof(payload) => {
                self.is_followed = status_of_eof(payload).is_some_and(tells_of_more);
                return Ok(Some(Ok(std::mem::take(&mut self.table))));
            }
            Stage::Rows => {
                self.bytes += payload.len();
                if self.table.rows.len() == ROWS_MAX || self.bytes > ANSWER_MAX {
                    return Err(Fault::TooLarge("the answer to a query"));
                }
                self.table.rows.push(row(payload, self.table.columns.ends.len()).ok_or(UNREADABLE)?);
            }
        }
        Ok(None)
    }
}

fn is_eof(payload: &[u8]) -> bool {
    payload.first() == Some(&EOF) && payload.len() < EOF_MAX
}

/// The status of an EOF packet: behind the number of warnings.
fn status_of_eof(payload: &[u8]) -> Option<u16> {
    let mut cursor = Cursor::new(payload);
    cursor.bytes(3)?;
    cursor.u16()
}

/// The status of an OK packet, of which `rest` follows its first byte: behind the number of rows, and of the last one.
fn status_of_ok(rest: &[u8]) -> Option<u16> {
    let mut cursor = Cursor::new(rest);
    cursor.number()?;
    cursor.number()?;
    cursor.u16()
}

/// `SERVER_MORE_RESULTS_EXISTS`.
fn tells_of_more(status: u16) -> bool {
    status & 8 != 0
}

/// "Column Definition" (4.1): catalogue, schema, table, original table, name.
fn column(payload: &[u8]) -> Option<&[u8]> {
    let mut cursor = Cursor::new(payload);
    for _ in 0..4 {
        cursor.string()?;
    }
    cursor.string().map(|name| &name[..name.len().min(COLUMN_BYTES_MAX)])
}

fn row(payload: &[u8], columns: usize) -> Option<Words> {
    const NULL: u8 = 0xFB;
    let mut cursor = Cursor::new(payload);
    let mut values = Words::with_room(columns, payload.len());
    for _ in 0..columns {
        if cursor.rest().first()? == &NULL {
            cursor.u8();
            values.push(None);
        } else {
            values.push(Some(cursor.string()?));
        }
    }
    cursor.rest().is_empty().then_some(values)
}

#[cfg(test)]
mod tests {
    use super::super::testing::hex;
    use super::*;

    fn read(packets: &[&str]) -> Result<Option<Answer>, Fault> {
        let mut reading = Reading::default();
        for (index, packet) in packets.iter().enumerate() {
            if let Some(answer) = reading.take(&hex(packet))? {
                assert_eq!(index + 1, packets.len(), "an answer before its end");
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    /// The example of "Text Resultset": `SELECT @@version_comment LIMIT 1`.
    #[test]
    fn the_documented_answer() {
        let answer = read(&[
            "01",
            "03646566000000114040 76657273696f6e5f636f6d6d656e74 000c08001c000000fd00001f0000",
            "fe00000200",
            "1c4d7953514c20436f6d6d756e697479205365727665722028 47504c29",
            "fe00000200",
        ]);
        let table = answer.expect("readable").expect("whole").expect("no error");
        assert_eq!(table, Table::of(&["@@version_comment"], &[&[Some("MySQL Community Server (GPL)")]]));
        let row = table.rows().next().expect("a row");
        assert_eq!(row.named("@@VERSION_comment"), Some(Some("MySQL Community Server (GPL)")));
        assert_eq!(row.named("other"), None);
    }

    #[test]
    fn an_answer_tells_whether_another_follows() {
        let column = "0364656600000001610c3f000100000008000000";
        for (packets, follows) in [
            (["01", column, "fe00000200", "fe00000200"].as_slice(), false),
            (&["01", column, "fe00000200", "fe00000a00"], true),
            (&["01", column, "fe00000a00", "fe00000200"], false),
            (&["00000002000000"], false),
            (&["000000 0a00 0000"], true),
            (&["00 fc0a00 00 0200 0000"], false),
            (&["00"], false),
            (&["ff48042348593030304e6f207461626c65732075736564"], false),
        ] {
            let mut reading = Reading::default();
            let answers = packets.iter().filter_map(|packet| reading.take(&hex(packet)).expect("readable"));
            assert_eq!(answers.count(), 1, "{packets:?}");
            assert_eq!(reading.is_followed(), follows, "{packets:?}");
        }
    }

    #[test]
    fn nulls_errors_and_nothing() {
        let head = ["02", "0364656600000001610c3f000100000008000000", "0364656600000001620c3f000100000008000000"];
        let table = |rows: &[&str]| read(&[&head, ["fe00000200"].as_slice(), rows].concat());
        let nulls = table(&["fb0131", "fe00000200"]).expect("readable").expect("whole").expect("no error");
        assert_eq!(nulls, Table::of(&["a", "b"], &[&[None, Some("1")]]));
        assert!(read(&["00000002000000"]).expect("readable").expect("whole").is_ok(), "OK is a table of nothing");
        let refused = read(&["ff48042348593030304e6f207461626c65732075736564"]).expect("readable").expect("whole");
        assert_eq!(refused.expect_err("an error").code, 1096);
        let broken = table(&["fb0131", "ff48042348593030304e6f207461626c65732075736564"]);
        assert!(broken.expect("readable").expect("whole").is_err(), "an error after some rows");
    }

    #[test]
    fn answers_are_bounded_and_of_one_form() {
        assert!(matches!(read(&["fcff00"]), Ok(None)), "255 columns");
        assert!(matches!(read(&["fc0101"]), Err(Fault::TooLarge(_))), "257 columns");
        for wrong in ["fb2f6574632f706173737764", "", "fe"] {
            assert!(matches!(read(&[wrong]), Err(Fault::Malformed(_))), "{wrong}");
        }
        let head = ["01", "0364656600000001610c3f000100000008000000", "fe00000200"];
        let rows = vec!["0131"; ROWS_MAX + 1];
        assert!(matches!(read(&[&head, rows.as_slice()].concat()), Err(Fault::TooLarge(_))));
        for wrong in ["013131", "0231", "ff"] {
            assert!(matches!(read(&[&head, [wrong].as_slice()].concat()), Err(Fault::Malformed(_))), "{wrong}");
        }
    }
}
