//! The public key of a certificate, whatever version and extensions that has.

/// Reads values of DER one by one; every read is checked against what is there.
struct Reader<'a>(&'a [u8]);

const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

impl<'a> Reader<'a> {
    /// The next value: its kind, its content, and all of it.
    fn next(&mut self) -> Option<(u8, &'a [u8], &'a [u8])> {
        let (&kind, &first) = (self.0.first()?, self.0.get(1)?);
        let (header, length) = match first {
            0..=0x7f => (2, usize::from(first)),
            0x81..=0x83 => {
                let count = usize::from(first & 0x7f);
                let bytes = self.0.get(2..2 + count)?;
                let length = bytes.iter().fold(0, |sum, &it| sum << 8 | usize::from(it));
                (2 + count, length)
            }
            _ => return None,
        };
        let (whole, rest) = self.0.split_at_checked(header + length)?;
        self.0 = rest;
        Some((kind, whole.get(header..)?, whole))
    }

    /// The content and all of the next value, which has to be of that kind.
    fn expect(&mut self, kind: u8) -> Option<(&'a [u8], &'a [u8])> {
        let (found, content, whole) = self.next()?;
        (found == kind).then_some((content, whole))
    }
}

/// The SubjectPublicKeyInfo of a certificate (RFC 5280 section 4.1), DER.
pub fn public_key(certificate: &[u8]) -> Option<&[u8]> {
    let mut fields = Reader(Reader(certificate).expect(SEQUENCE)?.0);
    let mut fields = Reader(fields.expect(SEQUENCE)?.0);
    if fields.0.first() == Some(&VERSION) {
        fields.next()?;
    }
    fields.expect(INTEGER)?; // serial number
    for _ in 0..4 {
        fields.expect(SEQUENCE)?; // signature, issuer, validity, subject
    }
    Some(fields.expect(SEQUENCE)?.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_certificate_is_found_and_nothing_else_panics() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().to_vec();
        let key = rcgen::PublicKeyData::subject_public_key_info(&made.signing_key);
        assert_eq!(public_key(&certificate), Some(&key[..]));
        for at in 0..certificate.len() {
            assert_ne!(public_key(&certificate[..at]), Some(&key[..]));
            for value in [0, 1, 0x30, 0x80, 0x81, 0x83, 0x84, 0xff] {
                let mut changed = certificate.clone();
                changed[at] = value;
                public_key(&changed);
            }
        }
    }
}
