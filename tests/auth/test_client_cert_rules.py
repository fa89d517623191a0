"""What certificates say, and the rules they are held against."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbridge.auth.client_cert import ALT_NAME_TYPES, Subject, parse_attribute_name, parse_subject, parse_subject_rule

LONG = {"CN": "commonName", "O": "organizationName", "OU": "organizationalUnitName"}


def owner(*subject: str, names: tuple[str, ...] = ()) -> Subject:
    """Read a certificate with these fields."""
    pairs = [part.partition("=") for part in subject]
    others = [name.partition(":") for name in names]
    return parse_subject(
        {
            "subject": tuple(((LONG.get(key, key), value),) for key, _, value in pairs),
            "subjectAltName": tuple((kind, value) for kind, _, value in others),
            "notAfter": "Jan  1 00:00:00 2027 GMT",
        }
    )


@pytest.mark.parametrize(
    ("rule", "subject", "names", "fits"),
    [
        ("CN=alice", ["CN=alice"], (), True),
        ("CN=alice", ["O=Example", "CN=alice", "OU=x"], (), True),
        ("CN=alice", ["CN=Alice"], (), False),
        ("CN=alice", ["CN=alice "], (), False),
        ("CN=alice", ["O=alice"], (), False),
        ("CN=alice", ["CN=bob", "CN=alice"], (), False),
        ("CN=alice", ["CN=alice", "CN=alice"], (), False),
        ("CN=alice", [], ("DNS:alice",), False),
        ("CN=alice,O=Example", ["O=Example", "CN=alice"], (), True),
        ("CN=alice,O=Example", ["CN=alice"], (), False),
        ("CN=alice,O=Example", ["CN=alice,O=Example"], (), False),
        ("CN=alice,O=Example", ["CN=alice, O=Example"], (), False),
        ("CN=alice,O=Example", ["CN=alice", "O=Example", "O=Other"], (), False),
        ("CN=alice,O=Example", ["CN=alice+O=Example", "O=Example"], (), False),
        (r"CN=alice\,O=Example", ["CN=alice,O=Example"], (), True),
        (r"CN=alice\,O=Example", ["CN=alice", "O=Example"], (), False),
        ("CN=alice", ["CN=alice\0.example"], (), False),
        ("commonName=alice", ["CN=alice"], (), True),
        ("2.5.4.99=x", ["2.5.4.99=x"], (), True),
        ("DNS:gw.example.org", [], ("DNS:other", "DNS:GW.Example.org"), True),
        ("DNS:gw.example.org", [], ("DNS:*.example.org",), False),
        ("DNS:gw.example.org", ["CN=gw.example.org"], (), False),
        ("DNS:gw.example.org", [], ("URI:gw.example.org", "email:gw.example.org"), False),
        ("DNS:gw.example.org", [], ("DNS:evil.gw.example.org",), False),
        ("URI:spiffe://example.org/db", [], ("URI:spiffe://example.org/db",), True),
        ("URI:spiffe://example.org/db", [], ("URI:spiffe://example.org/db/x",), False),
        ("URI:spiffe://example.org/db", [], ("URI:SPIFFE://example.org/db",), False),
        ("email:alice@example.org", [], ("email:alice@example.org",), True),
        ("email:alice@example.org", ["emailAddress=alice@example.org"], (), False),
    ],
)
def test_subjects_that_a_rule_fits(rule: str, subject: list[str], names: tuple[str, ...], fits: bool) -> None:
    """Exactly: each attribute once with this value, whatever else is there; nothing is joined before it is compared."""
    assert parse_subject_rule(rule).matches(owner(*subject, names=names)) is fits


def test_attributes_in_one_part_of_a_subject_count_singly() -> None:
    """A part may hold several attributes."""
    found = parse_subject({"subject": ((("commonName", "alice"), ("organizationName", "Example")),)})
    assert parse_subject_rule("CN=alice,O=Example").matches(found)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("CN=alice, O=Example Org", (("CN", "alice"), ("O", "Example Org"))),
        ("CN = alice , O = x", (("CN", "alice"), ("O", "x"))),
        (r"CN=a\,b\=c\\d\+e", (("CN", "a,b=c\\d+e"),)),
        (r"CN=a\ ", (("CN", "a "),)),
        ("CN=a=b", (("CN", "a=b"),)),
        ("CN=DNS:host", (("CN", "DNS:host"),)),
        ("DNS:Host.Example.", (("DNS", "host.example"),)),
    ],
)
def test_how_a_rule_is_read(text: str, wanted: tuple[tuple[str, str], ...]) -> None:
    """Blanks around commas do not count, and a backslash escapes any character."""
    rule = parse_subject_rule(text)
    assert (rule.required, str(rule)) == (wanted, text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "alice", "CN", "CN=", "=alice", "CN=a,", ",CN=a", "CN=a,,O=b", "CN=a,CN=b", "CN=a+O=b", "CN=a\\"),
        *("CN=a;O=b,x", "DNS:", "DNS: a", "dns:a", "IP:10.0.0.1", "/CN=a/O=b", "XX=a", "CN=a,XX=b"),
    ],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    """A rule that could be understood in two ways, or not at all, is an error."""
    with pytest.raises(ValueError, match=r"is no rule|is no attribute"):
        parse_subject_rule(text)


def test_what_stands_there_once() -> None:
    """Not usable as a name: what is missing, occurs twice, is too long, or has a line break."""
    found = owner("CN=alice", "OU=a", "OU=b", "O=a\nb", names=(f"DNS:{'a' * 256}", "URI:spiffe://x"))
    assert found.single_values() == {"CN": "alice", "URI": "spiffe://x"}
    assert found.single_value("email") is None
    assert found.expires == 1798761600.0


def test_a_certificate_may_say_nothing() -> None:
    """A certificate without any names identifies nobody."""
    assert parse_subject({}) == Subject({}, None)
    assert (
        parse_subject({"subjectAltName": (("DirName", ((("commonName", "a"),),)), ("IP Address", "10.0.0.1"))}).values
        == {}
    )


@given(st.text(max_size=30) | st.from_regex(r"(CN|O|DNS|URI)[=:][a-z,\\=+ ]*(,O=x)?", fullmatch=True))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    """No text is an error of another kind, and no rule fits a certificate that says nothing."""
    for read in (parse_subject_rule, parse_attribute_name):
        try:
            found = read(text)
        except ValueError:
            continue
        assert isinstance(found, str) or not found.matches(owner())


@given(st.text(min_size=1).filter(lambda value: value.strip(" \t") == value))
def test_every_value_can_be_written(value: str) -> None:
    """Escaped character by character, a rule fits exactly that value."""
    rule = parse_subject_rule("CN=" + "".join(f"\\{char}" for char in value))
    assert rule.matches(owner(f"CN={value}"))
    assert not rule.matches(owner(f"CN={value}x"))
    assert not any(kind == key for kind in ALT_NAME_TYPES for key, _ in rule.required)
