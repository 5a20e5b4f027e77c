//! One value on its way from a source to a target.

/// A value in one of the data types DMS itself works with while it moves a row between different engines.
///
/// Follows <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Reference.DataTypes.html>.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// The source did not send this column (it did not change).
    Absent,
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    /// A float of either width; a narrow one keeps the shortest decimal that names it.
    Real(f64),
    /// A decimal number in plain or scientific notation, also `NaN`, `Infinity` and `-Infinity`.
    Numeric(&'a [u8]),
    /// Text as the server sent it: UTF-8 unless the server's database has no encoding. Also any type DMS calls a
    /// STRING, CLOB or NCLOB, and in [`Format::Text`](super::Format::Text) every type in its engine's own text form.
    String(&'a [u8]),
    Bytes(&'a [u8]),
    /// Days since 1970-01-01 in the proleptic Gregorian calendar.
    Date(i32),
    /// Microseconds since midnight; 24:00:00 is allowed.
    Time(i64),
    /// Microseconds since 1970-01-01 00:00:00, without a zone or in UTC. [`Value::INFINITY`] and
    /// [`Value::NEG_INFINITY`] stand for PostgreSQL's unbounded timestamps.
    DateTime(i64),
}

impl Value<'_> {
    pub const INFINITY: i64 = i64::MAX;
    pub const NEG_INFINITY: i64 = i64::MIN;
    /// The unbounded dates of PostgreSQL, as days.
    pub const DATE_INFINITY: i32 = i32::MAX;
    pub const DATE_NEG_INFINITY: i32 = i32::MIN;
}
