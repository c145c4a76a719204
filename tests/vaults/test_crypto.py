"""Encryption and decryption of entries."""

import base64
import secrets
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runqy.errors import VaultUnavailable
from vaults.crypto import EntryAAD, Keyring, MasterKeyMalformed, generate_master_key, key_id

OLD, NEW = b"o" * 32, b"n" * 32
AAD = EntryAAD("api-keys", "TOKEN", 7, "both", ("github.com",), True)


@given(st.text(min_size=1))
def test_an_encrypted_value_is_decrypted_with_its_associated_data(value: str) -> None:
    ring = Keyring([NEW])

    assert ring.decrypt(AAD, ring.encrypt(AAD, value)) == value


def test_encrypting_twice_gives_different_bytes_without_the_value() -> None:
    ring = Keyring([NEW])

    first, second = ring.encrypt(AAD, "a-value-to-hide"), ring.encrypt(AAD, "a-value-to-hide")

    assert first != second
    assert b"a-value-to-hide" not in first


@pytest.mark.parametrize(
    "other",
    [
        replace(AAD, vault="other"),
        replace(AAD, key="OTHER"),
        replace(AAD, revision=6),
        replace(AAD, vault="api-keysT", key="OKEN"),
        replace(AAD, usage="environment"),
        replace(AAD, git_hosts=("github.com", "evil.example.com")),
        replace(AAD, git_hosts=("github.co", "m")),
        replace(AAD, is_secret=False),
    ],
    ids=[
        *("another vault", "another entry", "rolled back", "shifted boundary"),
        *("another usage", "another host", "other hosts", "shown"),
    ],
)
def test_a_ciphertext_of_another_entry_cannot_be_decrypted(other: EntryAAD) -> None:
    ring = Keyring([NEW])
    stored = ring.encrypt(AAD, "value")

    with pytest.raises(VaultUnavailable, match=rf"{other.vault}/{other.key} .*{key_id(NEW).hex()}"):
        ring.decrypt(other, stored)


def test_every_flipped_bit_is_detected_and_the_error_names_entry_and_key() -> None:
    ring = Keyring([NEW])
    stored = ring.encrypt(AAD, "value")

    for bit in range(len(stored) * 8):
        flipped = bytearray(stored)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(VaultUnavailable, match=rf"api-keys/TOKEN .*{bytes(flipped[1:9]).hex()}"):
            ring.decrypt(AAD, bytes(flipped))


def test_every_truncation_is_detected() -> None:
    ring = Keyring([NEW])
    stored = ring.encrypt(AAD, "value")

    for length in range(len(stored)):
        with pytest.raises(VaultUnavailable, match="api-keys/TOKEN"):
            ring.decrypt(AAD, stored[:length])


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    before = Keyring([OLD]).encrypt(AAD, "value")
    ring = Keyring([NEW, OLD])
    after = ring.encrypt(AAD, "value")

    assert ring.decrypt(AAD, before) == Keyring([NEW]).decrypt(AAD, after) == "value"
    assert (ring.is_current(before), ring.is_current(after)) == (False, True)
    with pytest.raises(VaultUnavailable, match=key_id(OLD).hex()):
        Keyring([NEW]).decrypt(AAD, before)


def test_the_setting_accepts_one_key_or_several() -> None:
    keys = [secrets.token_bytes(32) for _ in range(2)]
    texts = [base64.b64encode(key).decode() for key in keys]

    assert Keyring.parse(texts[0]).first_id == key_id(keys[0])
    ring = Keyring.parse(f"{texts[1]}, {texts[0]}")
    assert ring.decrypt(AAD, Keyring.parse(texts[0]).encrypt(AAD, "value")) == "value"
    assert ring.first_id == key_id(keys[1])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("x", id="short"),
        pytest.param("not base64 at all!", id="not-base64"),
        pytest.param(base64.b64encode(b"k" * 31).decode(), id="31-bytes"),
        pytest.param(generate_master_key() + ",", id="nothing-behind-the-comma"),
    ],
)
def test_a_malformed_setting_is_rejected_and_not_in_the_error(text: str) -> None:
    with pytest.raises(MasterKeyMalformed) as caught:
        Keyring.parse(text)

    assert len(text) < 5 or text not in str(caught.value)
