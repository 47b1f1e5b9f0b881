//! The subset, form by form.

use super::*;

fn check(hex: &str) -> Result<(), CborError> {
    canonical(&data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap())
}

#[test]
fn the_shortest_form_of_each_type_is_canonical() {
    for hex in ["00", "17", "1818", "190100", "1a00010000", "1b0000000100000000", "1bffffffffffffffff"] {
        assert_eq!(check(hex), Ok(()), "{hex}");
    }
    for hex in
        ["20", "3863", "3bffffffffffffffff", "f4", "f5", "40", "41ff", "6161", "80", "a0", "a2000118ff02"]
    {
        assert_eq!(check(hex), Ok(()), "{hex}");
    }
}

#[test]
fn longer_heads_than_needed_are_refused() {
    for hex in [
        "1800",
        "190018",
        "1a00000100",
        "1b0000000000010000",
        "3800",
        "580161",
        "780161",
        "980100",
        "b8010001",
    ] {
        assert_eq!(check(hex), Err(CborError::NotCanonical), "{hex}");
    }
    assert_eq!(check("a1180000"), Err(CborError::NotCanonical));
}

#[test]
fn indefinite_lengths_floats_tags_and_other_simple_values_are_refused() {
    for hex in [
        "5f4161ff",
        "7f6161ff",
        "9f00ff",
        "bf0000ff",
        "f90000",
        "fa00000000",
        "c000",
        "f6",
        "f7",
        "f0",
        "f8ff",
    ] {
        assert!(check(hex).is_err(), "{hex}");
    }
}

#[test]
fn keys_must_be_unsigned_and_ascend() {
    for hex in ["a201000000", "a200000000", "a12000", "a1616100", "a1410000"] {
        assert_eq!(check(hex), Err(CborError::NotCanonical), "{hex}");
    }
}

#[test]
fn the_fifth_level_is_refused() {
    assert_eq!(check("8181818100"), Ok(()));
    assert_eq!(check("818181818100"), Err(CborError::NotCanonical));
    assert_eq!(check("a100a100a100a10000"), Ok(()));
    assert_eq!(check("a100a100a100a100a10000"), Err(CborError::NotCanonical));
}

#[test]
fn trailing_bytes_and_early_ends_are_refused() {
    assert_eq!(check("0000"), Err(CborError::NotCanonical));
    for hex in ["", "18", "42ff", "8200", "a100", "9bffffffffffffffff00", "5bffffffffffffffff00", "61ff"] {
        assert_eq!(check(hex), Err(CborError::Malformed), "{hex}");
    }
}

#[test]
fn fields_of_later_versions_are_kept_and_unknown_ones_below_them_refused() {
    let bytes = MapWriter::new().uint(0, 2).uint(64, 7).text(70, "x").finish(&Extensions::default());
    let mut reader = MapReader::open(&bytes).unwrap();
    assert_eq!(reader.required(0, |d| read_uint(d, 9)), Ok(2));
    let kept = reader.finish().unwrap();
    assert_eq!(kept.count(), 2);
    assert_eq!(MapWriter::new().uint(0, 2).finish(&kept), bytes);

    let bytes = MapWriter::new().uint(0, 2).uint(63, 7).finish(&Extensions::default());
    let mut reader = MapReader::open(&bytes).unwrap();
    assert_eq!(reader.required(0, |d| read_uint(d, 9)), Ok(2));
    assert_eq!(reader.finish(), Err(CborError::UnknownField(63)));
}

#[test]
fn a_missing_field_is_named() {
    let bytes = MapWriter::new().uint(0, 2).finish(&Extensions::default());
    let mut reader = MapReader::open(&bytes).unwrap();
    assert_eq!(reader.required(1, |d| read_uint(d, 9)), Err(CborError::Field(1)));
    assert_eq!(reader.optional(1, |d| read_uint(d, 9)), Ok(None));
    assert_eq!(reader.required(0, |d| read_uint(d, 1)), Err(CborError::Field(0)));
}
