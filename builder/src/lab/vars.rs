//! Variables of OVMF: a machine whose owner has enrolled the keys of a folder, so that Secure Boot is on.
//!
//! The file is a firmware volume with one store of variables: header, name, value, each variable at a multiple of 4
//! bytes. It is written whole, as the firmware itself would leave it after an enrolment.

use super::{LabError, file};
use crate::sign::efi::{ATTRIBUTES, VARIABLES, Variable, efi_time};
use crate::sign::keys;
use std::path::Path;

/// Where the store begins in the volume, and `gEfiAuthenticatedVariableGuid`, which it begins with.
const STORE: usize = 0x48;
const AUTHENTICATED: [u8; 16] =
    [0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92];
/// Bytes of the store's header.
const HEADER: usize = 28;
/// Bytes of flash that were never written.
const ERASED: u8 = 0xff;
/// `VARIABLE_DATA`, and the state "whole, and not deleted".
const START: [u8; 4] = [0xaa, 0x55, 0x3f, 0];
/// Before any that an operator's change would have.
const TIME: [u16; 6] = [2020, 1, 1, 0, 0, 0];

/// Writes `to`: the empty store of `template` with PK, KEK and db of a folder of `roost keys`.
pub(super) fn enrol(template: &Path, folder: &Path, to: &Path) -> Result<(), LabError> {
    let mut flash = file("read", template, std::fs::read)?;
    if flash.get(STORE..STORE + 16) != Some(&AUTHENTICATED) || flash.get(STORE + HEADER) != Some(&ERASED) {
        return Err(LabError::Answer {
            peer: template.display().to_string(),
            found: "something else".to_owned(),
            expected: "an empty store of authenticated variables".to_owned(),
        });
    }
    let mut at = STORE + HEADER;
    for variable in VARIABLES {
        let path = folder.join(keys::file(variable, "esl"));
        let bytes = entry(variable, &file("read", &path, std::fs::read)?);
        flash[at..at + bytes.len()].copy_from_slice(&bytes);
        at = (at + bytes.len()).next_multiple_of(4);
    }
    file("write", to, |path| std::fs::write(path, &flash))
}

/// `AUTHENTICATED_VARIABLE_HEADER`, name and value.
fn entry(variable: Variable, value: &[u8]) -> Vec<u8> {
    let name: Vec<u8> = variable.name().encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let lengths = [name.len() as u32, value.len() as u32].map(u32::to_le_bytes).concat();
    // Between attributes and time: the count of an older kind of authentication; behind the time: its key's number.
    [
        &START[..],
        &ATTRIBUTES.to_le_bytes(),
        &[0; 8],
        &efi_time(TIME),
        &[0; 4],
        &lengths,
        &variable.vendor(),
        &name,
        value,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_has_the_header_that_firmware_reads() {
        let bytes = entry(Variable::Db, b"value");
        assert_eq!(bytes.len(), 60 + 6 + 5);
        assert_eq!(bytes[36..44], [6, 0, 0, 0, 5, 0, 0, 0]);
        assert_eq!(&bytes[60..], b"d\0b\0\0\0value");
    }

    #[test]
    fn what_is_no_empty_store_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let template = folder.path().join("vars");
        std::fs::write(&template, [0; 200]).expect("written");
        enrol(&template, folder.path(), &folder.path().join("to")).expect_err("refused");
    }
}
