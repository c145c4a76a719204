"""What opens, and what does not."""

import base64
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runqy.errors import VaultUnavailable
from vaults.crypto import Keyring, MasterKeyMalformed, Place, key_id, new_master_key

OLD, NEW = b"o" * 32, b"n" * 32
PLACE = Place("api-keys", "TOKEN", 7)


@given(st.text(min_size=1))
def test_what_was_sealed_opens_in_its_place(value: str) -> None:
    ring = Keyring([NEW])

    assert ring.open(PLACE, ring.seal(PLACE, value)) == value


def test_sealing_twice_gives_different_bytes_without_the_value_in_them() -> None:
    ring = Keyring([NEW])

    first, second = ring.seal(PLACE, "a-value-to-hide"), ring.seal(PLACE, "a-value-to-hide")

    assert first != second
    assert b"a-value-to-hide" not in first


@pytest.mark.parametrize(
    "other",
    [
        Place("other", "TOKEN", 7),
        Place("api-keys", "OTHER", 7),
        Place("api-keys", "TOKEN", 6),
        Place("api-keysT", "OKEN", 7),
    ],
    ids=["another vault", "another entry", "rolled back", "shifted boundary"],
)
def test_a_ciphertext_does_not_open_in_another_place(other: Place) -> None:
    ring = Keyring([NEW])
    stored = ring.seal(PLACE, "value")

    with pytest.raises(VaultUnavailable, match=rf"{other.vault}/{other.key} .*{key_id(NEW).hex()}"):
        ring.open(other, stored)


def test_every_flipped_bit_is_noticed_and_the_error_names_entry_and_key() -> None:
    ring = Keyring([NEW])
    stored = ring.seal(PLACE, "value")

    for bit in range(len(stored) * 8):
        flipped = bytearray(stored)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(VaultUnavailable, match=rf"api-keys/TOKEN .*{bytes(flipped[1:9]).hex()}"):
            ring.open(PLACE, bytes(flipped))


def test_every_truncation_is_noticed() -> None:
    ring = Keyring([NEW])
    stored = ring.seal(PLACE, "value")

    for length in range(len(stored)):
        with pytest.raises(VaultUnavailable, match="api-keys/TOKEN"):
            ring.open(PLACE, stored[:length])


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    before = Keyring([OLD]).seal(PLACE, "value")
    ring = Keyring([NEW, OLD])
    after = ring.seal(PLACE, "value")

    assert ring.open(PLACE, before) == Keyring([NEW]).open(PLACE, after) == "value"
    assert (ring.is_current(before), ring.is_current(after)) == (False, True)
    with pytest.raises(VaultUnavailable, match=key_id(OLD).hex()):
        Keyring([NEW]).open(PLACE, before)


def test_the_setting_takes_one_key_or_several() -> None:
    keys = [secrets.token_bytes(32) for _ in range(2)]
    texts = [base64.b64encode(key).decode() for key in keys]

    assert Keyring.parse(texts[0]).first_id == key_id(keys[0])
    ring = Keyring.parse(f"{texts[1]}, {texts[0]}")
    assert ring.open(PLACE, Keyring.parse(texts[0]).seal(PLACE, "value")) == "value"
    assert ring.first_id == key_id(keys[1])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("x", id="short"),
        pytest.param("not base64 at all!", id="not-base64"),
        pytest.param(base64.b64encode(b"k" * 31).decode(), id="31-bytes"),
        pytest.param(new_master_key() + ",", id="nothing-behind-the-comma"),
    ],
)
def test_a_malformed_setting_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(MasterKeyMalformed) as caught:
        Keyring.parse(text)

    assert len(text) < 5 or text not in str(caught.value)
