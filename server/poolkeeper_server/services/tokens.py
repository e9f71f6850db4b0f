"""Everything that is made or checked with the installation's MAC keys: tokens, challenges, digests, pseudonyms.

Each use has a key of its own, derived from the installation's, so that no value made for one use can be shown
for another.
"""

import base64
import hashlib
import hmac
import re
import secrets
import struct
from binascii import a2b_base64 as _decoded
from dataclasses import dataclass

from poolkeeper_server.domain.frozen import frozen
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.services.secrets import SecretKey, Secrets

CHALLENGE_LIFE = 60_000_000
"""How long a challenge is good for, in microseconds."""

_TAG_BYTES = 16
_NONCE_BYTES = 16
_TIMES = struct.Struct(">QQ")
_EXPIRY = struct.Struct(">Q")
_GIVEN = struct.Struct(">LL")
# A rolling secret of a session: epoch and generation, what is derived from the session, and the tag over all three.
_SECRET_BYTES = 32
# The tag, the two numbers, and the texts, separated by NUL, which no id may hold.
_TEXT_START = _TAG_BYTES + _TIMES.size
_SEPARATOR = "\0"
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")


class InvalidToken(Exception):
    """A token or challenge that this installation did not make, or made for a time that is over (`expired`)."""

    def __init__(self, message: str, *, expired: bool = False) -> None:
        super().__init__(message)
        self.expired = expired

    def refusal(self) -> Refusal:
        """What a caller is told whose session token it is."""
        return Refusal(Reason.UNAUTHENTICATED, str(self), hint="Open a session, and use the token that it gives.")


@frozen
class SessionIdentity:
    """Who calls: what a session token vouches for. `expires` is lease time in microseconds."""

    estate: str
    node: str
    generation: int
    session: str
    pool: str
    expires: int


@dataclass(frozen=True, slots=True)
class AdminIdentity:
    """Who administers: the id of the token, and the only estate it may touch (empty: all of the installation)."""

    token: str
    estate: str = ""


@dataclass(frozen=True, slots=True)
class AdminSecret:
    """A new admin token: the text that is shown once, and the digest that is stored."""

    text: str
    digest: bytes


class TokenMint:
    """Makes and checks what nodes present, without a look into the database."""

    def __init__(self, held: Secrets) -> None:
        self._session_keys = tuple(_derived(key, "session-token") for key in held.mac_keys)
        self._challenge_keys = tuple(_derived(key, "challenge") for key in held.mac_keys)
        self._rolling_keys = tuple(_derived(key, "rolling-secret") for key in held.mac_keys)
        self._receipt_keys = tuple(_derived(key, "receipt") for key in held.mac_keys)
        self._code_key = _keyed(held.code_key.key)
        self._bucket_key = _derived(held.code_key, "bucket")
        self._pseudonym_key = _keyed(held.pseudonym_key.key)

    def mint(self, identity: SessionIdentity) -> str:
        """The session token that vouches for `identity` until its expiry."""
        texts = (identity.estate, identity.node, identity.session, identity.pool)
        payload = _TIMES.pack(identity.expires, identity.generation) + _SEPARATOR.join(texts).encode()
        tag = _mac(self._session_keys[0], payload)[:_TAG_BYTES]
        return base64.urlsafe_b64encode(tag + payload).rstrip(b"=").decode()

    def verify(self, token: str, lease_now: int) -> SessionIdentity:
        """Who presents `token`. Raises InvalidToken for one that is foreign, damaged or expired."""
        try:
            raw = _decoded(token.encode("ascii").translate(_STANDARD_ALPHABET) + b"==")
        except ValueError as error:  # binascii.Error and UnicodeEncodeError are of this kind.
            raise InvalidToken("The session token is malformed.") from error
        payload = raw[_TAG_BYTES:]
        if not _matches(self._session_keys, payload, raw[:_TAG_BYTES]):
            raise InvalidToken("The session token was not made by this installation.")
        expires, generation = _TIMES.unpack_from(payload)
        if expires <= lease_now:
            raise InvalidToken("The session token has expired.", expired=True)
        estate, node, session, pool = raw[_TEXT_START:].decode().split(_SEPARATOR)
        return SessionIdentity(
            estate=estate, node=node, generation=generation, session=session, pool=pool, expires=expires
        )

    def challenge(self, node: str, lease_now: int) -> bytes:
        """A new challenge for the node of that full name to sign, good for 60 seconds."""
        fresh = _EXPIRY.pack(lease_now + CHALLENGE_LIFE) + secrets.token_bytes(_NONCE_BYTES)
        return fresh + _mac(self._challenge_keys[0], fresh + node.encode())[:_TAG_BYTES]

    def verify_challenge(self, challenge: bytes, node: str, lease_now: int) -> None:
        """Raises InvalidToken unless `challenge` was made for `node` and is not over."""
        fresh, tag = challenge[:-_TAG_BYTES], challenge[-_TAG_BYTES:]
        if len(fresh) != _EXPIRY.size + _NONCE_BYTES or not _matches(self._challenge_keys, fresh + node.encode(), tag):
            raise InvalidToken("The challenge was not made by this installation for this node.")
        if _EXPIRY.unpack_from(fresh)[0] <= lease_now:
            raise InvalidToken("The challenge has expired.", expired=True)

    def rolling_secret(self, subject: str) -> bytes:
        """The 32 bytes that `subject`, an enrolment, gives its node to present at the first open.

        Derived, so that a repeated answer carries the same one and only its hash need be stored.
        """
        return _mac(self._rolling_keys[0], subject.encode())

    def session_secret(self, session: str, *, node: str, epoch: int, generation: int) -> bytes:
        """The 32 bytes that a session gives its node to present at the next open; derived as those of an enrolment.

        It shows by itself that it was given, to whom, in which epoch and to which of its credentials: a database that
        was restored does not know those that were given since (`secret_given`).
        """
        drawn = self.rolling_secret(f"session/{session}")[: _SECRET_BYTES - _TAG_BYTES - _GIVEN.size]
        shown = _GIVEN.pack(epoch, generation) + drawn
        return shown + _mac(self._rolling_keys[0], shown + node.encode())[:_TAG_BYTES]

    def secret_given(self, secret: bytes, *, node: str) -> tuple[int, int]:
        """In which epoch, to which generation of its credentials, a session gave that secret to the node of that name.

        0 and 0 when none of ours did.
        """
        shown, tag = secret[:-_TAG_BYTES], secret[-_TAG_BYTES:]
        if len(secret) != _SECRET_BYTES or not _matches(self._rolling_keys, shown + node.encode(), tag):
            return 0, 0
        epoch, generation = _GIVEN.unpack_from(shown)
        return epoch, generation

    def seal(self, payload: bytes) -> bytes:
        """A receipt: the payload, which may be read, and what proves that it was made here."""
        return _mac(self._receipt_keys[0], payload)[:_TAG_BYTES] + payload

    def unseal(self, receipt: bytes) -> bytes:
        """The payload of a receipt. Raises InvalidToken for one that was not made here."""
        payload = receipt[_TAG_BYTES:]
        if not _matches(self._receipt_keys, payload, receipt[:_TAG_BYTES]):
            raise InvalidToken("The receipt was not made by this installation.")
        return payload

    def bucket(self, name: str, buckets: int) -> int:
        """Which of so many buckets a name belongs to; nobody else can tell which names share one."""
        return int.from_bytes(_mac(self._bucket_key, name.encode())[:8], "big") % buckets

    def code_digest(self, code: str) -> bytes:
        """The keyed hash under which an authentication code is stored (CC-2)."""
        return _mac(self._code_key, code.encode())

    def pseudonym(self, *, estate: str, node: str, consumer: str) -> str:
        """Sixteen hexadecimal digits by which the ledger knows a consumer; `node` is empty for a registered one."""
        message = _SEPARATOR.join((estate, node, consumer)).encode()
        return _mac(self._pseudonym_key, message)[:8].hex()


def session_id(challenge: bytes) -> str:
    """The id of the session that a challenge opens: 26 lower-case base32hex characters, the same every time."""
    return base64.b32hexencode(hashlib.sha256(challenge).digest()).decode()[:26].lower()


def make_admin_secret() -> AdminSecret:
    """A new admin token of 256 random bits."""
    text = f"pk_{secrets.token_urlsafe(32)}"
    return AdminSecret(text, admin_digest(text))


def is_admin_secret(text: str) -> bool:
    """Whether a text has the form of an admin token."""
    return re.fullmatch(r"pk_[A-Za-z0-9_-]{43}", text) is not None


def admin_digest(text: str) -> bytes:
    """The SHA-256 under which an admin token is stored; its 256 random bits need no slower hash."""
    return hashlib.sha256(text.encode()).digest()


def _derived(key: SecretKey, use: str) -> hmac.HMAC:
    return _keyed(hmac.digest(key.key, f"poolkeeper-{use}-v1".encode(), "sha256"))


def _keyed(key: bytes) -> hmac.HMAC:
    """What has taken the key in already, and is copied for each message: hmac.digest takes more than twice as long."""
    return hmac.new(key, digestmod="sha256")


def _mac(keyed: hmac.HMAC, message: bytes) -> bytes:
    one = keyed.copy()
    one.update(message)
    return one.digest()


def _matches(keys: tuple[hmac.HMAC, ...], message: bytes, tag: bytes) -> bool:
    for key in keys:  # noqa: SIM110 # A generator would double the cost, and this is on the path of every call.
        if hmac.compare_digest(_mac(key, message)[:_TAG_BYTES], tag):
            return True
    return False
