"""Our own form of a password's hash."""

from __future__ import annotations

import re

import pytest

from wsbridge.auth.passwords import SCRYPT_LN, SCRYPT_P, SCRYPT_R, ScryptHash, hash_password, parse_scrypt

QUICK = "$scrypt$ln=12,r=8,p=1$c2FsdHNhbHRzYWx0c2FsdA$"
DIGEST = "A" * 43


def test_what_is_made_can_be_read_and_verified() -> None:
    """The right password alone is right, before and after the text."""
    made = hash_password("pässwort".encode(), ln=12)
    again = parse_scrypt(made.text)

    assert again == made
    assert again.verify("pässwort".encode())
    assert not any(again.verify(wrong) for wrong in (b"", b"passwort", "pässwort ".encode()))


def test_every_hash_has_a_salt_of_its_own() -> None:
    """Equal passwords have different hashes (a random salt)."""
    assert hash_password(b"x", ln=12).text != hash_password(b"x", ln=12).text


def test_new_hashes_are_costly() -> None:
    """What is made without further words is what the documentation says."""
    text = hash_password(b"x").text
    assert text.startswith(f"$scrypt$ln={SCRYPT_LN},r={SCRYPT_R},p={SCRYPT_P}$")
    assert (SCRYPT_LN, SCRYPT_R, SCRYPT_P) == (15, 8, 1)
    assert parse_scrypt(text).verify(b"x")


def test_the_numbers_of_the_rfc() -> None:
    """The second and third vector of RFC 7914 section 12, cut to one block."""
    nacl = ScryptHash(
        10, 8, 16, b"NaCl", bytes.fromhex("fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162")
    )
    assert nacl.verify(b"password")
    salt = b"SodiumChloride"
    digest = bytes.fromhex("7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2")
    assert ScryptHash(14, 8, 1, salt, digest).verify(b"pleaseletmein")


def test_a_decoy_is_nobodys() -> None:
    """It costs the same and not even the right password fits it."""
    made = hash_password(b"x", ln=12)
    decoy = made.dummy_hash()
    assert (decoy.ln, decoy.r, decoy.p, len(decoy.digest)) == (made.ln, made.r, made.p, len(made.digest))
    assert not decoy.verify(b"x")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("$scrypt$", "is damaged"),
        (QUICK, "is damaged"),
        (QUICK + DIGEST + "\n", "is damaged"),
        (QUICK + DIGEST + "=", "is damaged"),
        (QUICK + DIGEST[:-1] + "B", "its base64 is not that of any bytes"),
        (QUICK + DIGEST + "AA", "its base64 is not that of any bytes"),
        (QUICK.replace("ln=12", "ln=012") + DIGEST, "is damaged"),
        (QUICK.replace("r=8", "r=0") + DIGEST, "is damaged"),
        (QUICK.replace("ln=12", "ln=11") + DIGEST, "of 16384, and it must be from 32768 to 2097152"),
        (QUICK.replace("p=1", "p=65") + DIGEST, "of 2129920, and it must be"),
        (QUICK.replace("ln=12", "ln=17") + DIGEST, "134217728 bytes of memory to verify, and the most is 67108864"),
        (QUICK.replace("ln=12", "ln=99") + DIGEST, "bytes of memory"),
        (QUICK.replace("ln=12,r=8", "ln=16,r=1") + DIGEST, "must be less than 16 * r"),
    ],
)
def test_what_is_refused(text: str, wrong: str) -> None:
    """Damage and absurd costs are reported without the hash."""
    with pytest.raises(ValueError, match=re.escape(wrong)) as refused:
        parse_scrypt(text)
    assert DIGEST[:8] not in str(refused.value)


def test_the_bounds_can_be_verified() -> None:
    """The largest accepted parameters do not exceed the memory that scrypt may use."""
    for numbers in ("ln=16,r=8,p=1", "ln=15,r=1,p=1", "ln=12,r=8,p=1", "ln=1,r=128,p=128"):
        assert not parse_scrypt(QUICK.replace("ln=12,r=8,p=1", numbers) + DIGEST).verify(b"x")
