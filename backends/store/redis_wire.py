"""The commands that `RedisStore` sends, as bytes, and the scripts that they run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from typing import Final, Literal

from policies.limits import Demand, LimitRule

Name = Literal["take", "refund", "beat"]
NAMES: Final[Sequence[Name]] = ("take", "refund", "beat")
LETTERS: Final[Mapping[str, str]] = {"token_bucket": "b", "fixed_window": "f", "slots": "s"}

# What is remembered of what was packed; then it begins anew. A key is 100 to 300 bytes.
_MOST_RULES: Final = 4096
_MOST_KEYS: Final = 8192


@dataclass(frozen=True, slots=True)
class Scripts:
    """The Lua that runs in the server. Whoever changes what it keeps changes `v1` in the keys too."""

    texts: Mapping[Name, str]

    @staticmethod
    def shipped() -> "Scripts":
        """Return the scripts of this release, from the files beside this one."""
        folder = Path(__file__).parent
        return Scripts({name: (folder / f"{name}.lua").read_text() for name in NAMES})


class RedisCommandWriter:
    """Packs commands. `EVALSHA` and what never changes of a rule are packed once."""

    def __init__(self, scripts: Scripts, prefix: str, lifetime: int) -> None:
        """
        prefix: begins every key; with braces around what a Cluster picks the slot by
        lifetime: of a lease, in microseconds
        """
        self._prefix = prefix
        self._lifetime = lifetime
        self._take, self._look = (bulk(word) + bulk(str(lifetime)) for word in ("take", "look"))
        self._texts = scripts.texts
        self._shas = {name: sha1(text.encode()).hexdigest() for name, text in scripts.texts.items()}
        self._keys: dict[str, str] = {}
        self._rules: dict[int, tuple[LimitRule, str]] = {}
        self._heads: dict[tuple[Name, int, int], str] = {}

    def take(self, nonce: int, demands: Sequence[Demand], lease: str, *, looks: bool, whole: bool = False) -> bytes:
        """`take.lua` for one request; `whole` sends the script itself."""
        # Written out, as in `refund`, since every request comes here: 1 us for three rules.
        keys, values, known_keys, known_rules = "", "", self._keys, self._rules
        for demand in demands:
            rule, bucket, amount = demand.rule, demand.bucket, demand.amount
            known = known_rules.get(id(rule))
            keys += known_keys.get(bucket) or self.key(bucket)
            values += known[1] if known is not None else self._rule(rule)
            if amount == 1:
                values += _ONE
            else:
                number = str(amount)
                values += f"${len(number)}\r\n{number}\r\n"
        number = str(nonce)
        head = self._head("take", len(demands), 4 + 5 * len(demands), whole)
        mode = self._look if looks else self._take
        return f"{head}{keys}${len(number)}\r\n{number}\r\n${len(lease)}\r\n{lease}\r\n{mode}{values}".encode()

    def refund(self, nonce: int, changes: Sequence["Change"], *, whole: bool = False) -> bytes:
        """`refund.lua` for a batch of changes."""
        keys, values, known_keys, known_rules = "", "", self._keys, self._rules
        for rule, bucket, what, taken in changes:
            keys += known_keys.get(bucket) or self.key(bucket)
            if rule is None:
                values += f"{_SLOT}${len(what)}\r\n{what}\r\n{_NEVER}"
            else:
                known = known_rules.get(id(rule))
                packed = known[1] if known is not None else self._rule(rule)
                at = str(taken)
                values += f"{packed}${len(what)}\r\n{what}\r\n${len(at)}\r\n{at}\r\n"
        head = self._head("refund", len(changes), 1 + 6 * len(changes), whole)
        return f"{head}{keys}{bulk(str(nonce))}{values}".encode()

    def beat(
        self, nonce: int, process: str, lifetime: int, held: Sequence[tuple[str, Sequence[str]]], *, whole: bool = False
    ) -> bytes:
        """`beat.lua`, for some of the buckets with the leases that hold a slot of each."""
        keys = [bulk(f"{self._prefix}processes"), *(self.key(bucket) for bucket, _ in held)]
        values = [str(nonce), process, str(lifetime)]
        for _, leases in held:
            values += (str(len(leases)), *leases)
        head = self._head("beat", len(keys), len(values), whole)
        return (head + "".join([*keys, *map(bulk, values)])).encode()

    def load(self) -> Iterable[bytes]:
        """Commands that make the server know the scripts."""
        for text in self._texts.values():
            yield f"*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n{bulk(text)}".encode()

    def key(self, bucket: str) -> str:
        """The key of a bucket, packed."""
        packed = self._keys.get(bucket)
        if packed is None:
            if len(self._keys) >= _MOST_KEYS:
                self._keys.clear()
            packed = self._keys[bucket] = bulk(f"{self._prefix}{bucket}")
        return packed

    def _head(self, name: Name, keys: int, values: int, whole: bool) -> str:
        if whole:
            return f"*{3 + keys + values}\r\n$4\r\nEVAL\r\n{bulk(self._texts[name])}{bulk(str(keys))}"
        head = self._heads.get((name, keys, values))
        if head is None:
            head = f"*{3 + keys + values}\r\n$7\r\nEVALSHA\r\n{bulk(self._shas[name])}{bulk(str(keys))}"
            if len(self._heads) < _MOST_RULES:
                self._heads[name, keys, values] = head
        return head

    def _rule(self, rule: LimitRule) -> str:
        # By identity: a rule's own hash costs more than all the rest. It is held, so nobody else gets its id.
        found = self._rules.get(id(rule))
        if found is None:
            values = (LETTERS[rule.strategy], str(rule.count), str(rule.seconds), str(rule.burst))
            found = rule, "".join(map(bulk, values))
            if len(self._rules) >= _MOST_RULES:
                self._rules.clear()
            self._rules[id(rule)] = found
        return found[1]


Change = tuple[LimitRule | None, str, str, int]
"""(rule, bucket, units used beyond, when they were taken); for a slot that is given back (None, bucket, lease, 0)."""


def packed_script(text: str) -> Callable[[Sequence[str], Sequence[str], bool], bytes]:
    """Return a function that packs a call of a script by keys and values; `whole` sends the script itself."""
    sha = bulk(sha1(text.encode()).hexdigest())

    def pack(keys: Sequence[str], values: Sequence[str], whole: bool) -> bytes:
        name = f"$4\r\nEVAL\r\n{bulk(text)}" if whole else f"$7\r\nEVALSHA\r\n{sha}"
        words = "".join(map(bulk, [str(len(keys)), *keys, *values]))
        return f"*{3 + len(keys) + len(values)}\r\n{name}{words}".encode()

    return pack


def bulk(text: str) -> str:
    """A string of the protocol."""
    length = len(text) if text.isascii() else len(text.encode(errors="replace"))
    return f"${length}\r\n{text}\r\n"


_ONE: Final = bulk("1")
_NEVER: Final = bulk("0")
_SLOT: Final = "".join(map(bulk, ("s", "0", "0", "0")))
