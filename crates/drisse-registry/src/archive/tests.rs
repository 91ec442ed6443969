//! Archives as other tools write them, and archives that are made to do harm.

use super::*;
use crate::blobs::Blob;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::io::Write;
use tar::EntryType::{Char, Directory, GNUSparse, Link, Regular, Symlink};

/// Returns an archive of these entries: name, type, bytes.
pub(crate) fn tar_of(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, kind, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(bytes.len() as u64);
        header.set_link_name("/etc/passwd").unwrap();
        header.set_cksum();
        archive.append(&header, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

/// Returns the files of an archive with their sizes, and the digest of the uncompressed bytes.
fn read(packed: &[u8], compression: Compression, most: u64) -> Result<(Vec<(String, u64)>, String), Refused> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(packed).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let (stream, mut found) = (Stream::new(compression.reader(file), most), Vec::new());
    stream.files(
        |name| !name.starts_with("other/"),
        |path, size, data| {
            let copied = io::copy(data, &mut io::sink())
                .map_err(|error| Refused(format!("as a writer's: {error}")))?;
            found.push((path.to_owned(), copied));
            assert!(copied <= size);
            Ok::<_, Refused>(())
        },
    )?;
    Ok((found, stream.digest()?))
}

fn refused(packed: &[u8], compression: Compression, most: u64) -> String {
    read(packed, compression, most).unwrap_err().to_string()
}

#[test]
fn an_archive_is_read_however_it_is_compressed() {
    let long = format!("./{}/m.onnx", "folder/".repeat(30));
    let mut archive = tar::Builder::new(
        tar_of(&[
            ("pax_global_header", tar::EntryType::XGlobalHeader, b"9 c=xxxx\n"),
            ("./", Directory, b""),
            ("./a//b", Regular, b"x"),
            ("other/link", Symlink, b""),
            ("other/../up", Char, b""),
        ])[..5 * 512 + 2 * 512]
            .to_vec(),
    );
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    archive.append_data(&mut header, &long, &b""[..]).unwrap();
    let mut plain = archive.into_inner().unwrap();
    // Padding of tape drives belongs to the archive's digest.
    plain.resize(plain.len() + 5000, 0);
    let (one, other) = plain.split_at(700);
    let skipped = [0x51, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, b'x', b'y', b'z'];
    for (packed, compression) in [
        (plain.clone(), Compression::Plain),
        (gzip(&plain), Compression::Gzip),
        ([gzip(one), gzip(other)].concat(), Compression::Gzip),
        (zstd(&plain), Compression::Zstd),
        ([&skipped[..], &zstd(one), &skipped, &zstd(other), &skipped].concat(), Compression::Zstd),
    ] {
        let (found, digest) = read(&packed, compression, 1 << 20).unwrap();
        assert_eq!(found, [("a/b".to_owned(), 1), (long[2..].replace("//", "/"), 0)], "{compression:?}");
        assert_eq!(digest, Blob::of(&plain).digest, "{compression:?}");
    }
}

#[test]
fn what_does_not_belong_into_an_archive_is_refused() {
    for (entries, why) in [
        (vec![("../x", Regular, &b"x"[..])], "not a plain path"),
        (vec![("/etc/x", Regular, b"x")], "not a plain path"),
        (vec![("a/../../x", Regular, b"x")], "not a plain path"),
        (vec![("a\nb", Regular, b"x")], "not a plain path"),
        (vec![("m.onnx", Symlink, b"")], "`m.onnx` is not a regular file"),
        (vec![("m.onnx", Link, b"")], "`m.onnx` is not a regular file"),
        (vec![("m.onnx", Char, b"")], "`m.onnx` is not a regular file"),
        (vec![("m.onnx", GNUSparse, b"")], "it cannot be read"),
        (vec![("a/b", Regular, b"x"), ("./a//b", Regular, b"x")], "`a/b` appears twice"),
    ] {
        let why_not = refused(&tar_of(&entries), Compression::Plain, 1 << 20);
        assert!(why_not.contains(why), "{entries:?}: {why_not}");
    }
}

#[test]
fn a_bomb_is_refused_when_it_has_unpacked_too_much() {
    let zeros = vec![0; 8 << 20];
    for name in ["m.onnx", "other/m.onnx"] {
        let bomb = tar_of(&[(name, Regular, &zeros)]);
        for (packed, compression) in [(gzip(&bomb), Compression::Gzip), (zstd(&bomb), Compression::Zstd)] {
            let why = refused(&packed, compression, 4 << 20);
            assert_eq!(why, "it unpacks to more than 4194304 bytes", "{name} {compression:?}");
        }
    }
    let padded = gzip(&[tar_of(&[]), zeros.clone()].concat());
    assert!(refused(&padded, Compression::Gzip, 4 << 20).contains("unpacks to more than"));
    // A name of 8 MiB, which would be read into memory.
    let name = tar_of(&[("././@LongLink", tar::EntryType::GNULongName, &zeros), ("x", Regular, b"")]);
    assert!(refused(&name, Compression::Plain, 1 << 30).contains("the headers of an entry have more than"));
}

#[test]
fn a_damaged_archive_is_refused_by_its_reader_and_not_by_the_writer() {
    let whole = tar_of(&[("m.onnx", Regular, &[7; 100_000])]);
    let cut = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    assert!(refused(&cut(&whole), Compression::Plain, 1 << 20).contains("it ends inside `m.onnx`"));
    for (packed, compression) in [
        (cut(&gzip(&whole)), Compression::Gzip),
        (cut(&zstd(&whole)), Compression::Zstd),
        (whole.clone(), Compression::Gzip),
        (whole.clone(), Compression::Zstd),
        (gzip(&whole), Compression::Plain),
    ] {
        let why = refused(&packed, compression, 1 << 20);
        assert!(
            why.starts_with("it cannot be read: ") || why.starts_with("it ends inside"),
            "{compression:?}: {why}"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000), magic in 0..3) {
        let start: &[u8] = [&[][..], &[0x1f, 0x8b, 8], &[0x28, 0xb5, 0x2f, 0xfd]][magic as usize];
        let bytes = [start, &bytes].concat();
        for compression in [Compression::Plain, Compression::Gzip, Compression::Zstd] {
            let _ = read(&bytes, compression, 1 << 20);
        }
    }
}
