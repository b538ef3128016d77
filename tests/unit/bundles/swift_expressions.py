"""Expressions of the Swift that an iOS bundle's arithmetic is written in, with Swift's rules on their types."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

TOKEN = re.compile(
    r"\s+|//[^\n]*|^#[^\n]*|^import \w+|"
    r"(?P<token>\d+\.\d+|\d+|\w+|\"[^\"\n]*\"|->|\.\.<|&&|\|\||[=!<>+\-*/]=|<<|>>|\S)",
    re.MULTILINE,
)
WHOLE, FRACTION, CASE = "whole literal", "fraction literal", "a case"
FITTING = {WHOLE: {"Int", "UInt8", "Float", "Double", FRACTION}, FRACTION: {"Float", "Double"}}
LEVELS = (("||",), ("&&",), ("==", "!=", "<", "<=", ">", ">="), ("+", "-"), ("*", "/", "%"), ("<<", ">>"))
ROUNDED = {"down": "Math.floor", "toNearestOrEven": "$halfEven"}
CONVERTED = {
    "Int": "Math.trunc({})",
    "UInt8": "$whole({}, 256)",
    "UInt32": "$whole({}, 2 ** 32)",
    "Double": "({})",
    "Float": "Math.fround({})",
}
OF_DOUBLES = ("sin", "cos", "exp", "sqrt")


class Refused(Exception):
    """What a Swift compiler would refuse, or this subset does not have."""


@dataclass(frozen=True)
class Value:
    """An expression: its JavaScript and its type in Swift."""

    code: str
    type: str


@dataclass
class Names:
    """What files declare.

    Attributes:
        enums: Name -> case -> raw value.
        structs: Name -> field -> type.
        functions: Name -> (label, type and whether there is a default, of every parameter), type of the result.
    """

    enums: dict[str, dict[str, str]] = field(default_factory=dict)
    structs: dict[str, dict[str, str]] = field(default_factory=dict)
    functions: dict[str, tuple[list[tuple[str, str, bool]], str]] = field(default_factory=dict)


class Expressions:
    """Reads tokens from the left to the right; each expression becomes its JavaScript and its type."""

    def __init__(self, source: str, names: Names) -> None:
        self.tokens = [found["token"] for found in TOKEN.finditer(source) if found["token"]]
        self.at, self.names, self.result = 0, names, ""
        self.scopes: list[dict[str, tuple[str, bool]]] = [{}]

    # Tokens.

    def refused(self, why: str) -> Refused:
        return Refused(f"{why}, at: {' '.join(self.tokens[max(0, self.at - 12) : self.at + 4])}")

    def see(self, *wanted: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at] in wanted

    def take(self, *wanted: str) -> str:
        if wanted and not self.see(*wanted):
            raise self.refused(f"{' or '.join(wanted)} is missing")
        self.at += 1
        return self.tokens[self.at - 1]

    def skip(self, *wanted: str) -> bool:
        found = self.see(*wanted)
        self.at += found
        return found

    def block_over(self) -> None:
        """Passes a balanced {...}, and whatever is in front of it."""
        while not self.see("{"):
            self.take()
        depth = 0
        while True:
            depth += {"{": 1, "}": -1}.get(self.take(), 0)
            if depth == 0:
                return

    def type(self) -> str:
        if self.skip("["):
            inner = f"[{self.type()}]"
            self.take("]")
        else:
            inner = self.take()
        return inner + ("?" if self.skip("?") else "")

    # Expressions.

    def look(self, name: str) -> tuple[str, bool]:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        raise self.refused(f"{name} is unknown")

    def fitted(self, value: Value, kind: str) -> str:
        """The code of a value where one of a type is due."""
        if value.type == CASE and kind in self.names.enums:
            return f'"{self.names.enums[kind][value.code]}"'
        if value.type not in (kind, "[]") and kind not in FITTING.get(value.type, ()):
            raise self.refused(f"{value.type} where {kind} is due")
        return value.code

    def common(self, one: Value, other: Value) -> str:
        for kind in (one.type, other.type):
            if all(each.type == kind or kind in FITTING.get(each.type, ()) for each in (one, other)):
                return kind
            if kind in self.names.enums and CASE in (one.type, other.type):
                return kind
        raise self.refused(f"{one.type} and {other.type} in one operation")

    def operated(self, one: Value, sign: str, other: Value) -> Value:
        kind = self.common(one, other)
        a, b = self.fitted(one, kind), self.fitted(other, kind)
        if sign in ("&&", "||") or kind == "Bool":
            if kind != "Bool" or sign not in ("&&", "||"):
                raise self.refused(f"{sign} of {kind}")
            return Value(f"({a} {sign} {b})", "Bool")
        if sign in LEVELS[2]:
            return Value(f"({a} {sign.replace('==', '===').replace('!=', '!==')} {b})", "Bool")
        if kind in ("Int", WHOLE):
            special = {"/": "Math.trunc({} / {})", "<<": "({} * 2 ** {})", ">>": "Math.floor({} / 2 ** {})"}
            return Value(special.get(sign, f"({{}} {sign} {{}})").format(a, b), kind)
        if kind not in ("Double", "Float", FRACTION) or sign not in ("+", "-", "*", "/"):
            raise self.refused(f"{sign} of {kind}")
        return Value(f"Math.fround({a} {sign} {b})" if kind == "Float" else f"({a} {sign} {b})", kind)

    def expression(self) -> Value:
        asked = self.binary(0)
        if not self.skip("?"):
            return asked
        condition = self.fitted(asked, "Bool")
        one = self.expression()
        self.take(":")
        other = self.expression()
        kind = self.common(one, other)
        return Value(f"({condition} ? {self.fitted(one, kind)} : {self.fitted(other, kind)})", kind)

    def binary(self, level: int) -> Value:
        if level == len(LEVELS):
            return self.unary()
        value = self.binary(level + 1)
        while self.see(*LEVELS[level]):
            value = self.operated(value, self.take(), self.binary(level + 1))
        return value

    def unary(self) -> Value:
        if self.skip("-"):
            value = self.unary()
            if value.type not in ("Int", "Double", "Float", WHOLE, FRACTION):
                raise self.refused(f"- of {value.type}")
            return Value(f"(-{value.code})", value.type)
        if self.skip("!"):
            return Value(f"(!{self.fitted(self.unary(), 'Bool')})", "Bool")
        value = self.primary()
        while self.see("[", "."):
            value = self.indexed(value) if self.take() == "[" else self.member(value)
        return value

    def indexed(self, value: Value) -> Value:
        index = self.fitted(self.expression(), "Int")
        self.take("]")
        if not value.type.startswith("["):
            raise self.refused(f"{value.type} has no elements")
        return Value(f"$at({value.code}, {index})", value.type[1:-1])

    def member(self, value: Value) -> Value:
        name = self.take()
        if value.type.startswith("[") and name == "count":
            return Value(f"{value.code}.length", "Int")
        if value.type == "Double" and name == "rounded":
            (rule,) = self.arguments()
            return Value(f"{ROUNDED[rule[1].code]}({value.code})", "Double")
        if value.type == "Float" and name == "bitPattern":
            return Value(f"$bits({value.code})", "UInt32")
        if name not in self.names.structs.get(value.type, {}):
            raise self.refused(f"{value.type} has no {name}")
        return Value(f"{value.code}.{name}", self.names.structs[value.type][name])

    def primary(self) -> Value:
        word = self.take()
        if word[0].isdigit():
            return Value(word, FRACTION if "." in word else WHOLE)
        if word[0] == '"':
            return Value(word, "String")
        if word in ("true", "false"):
            return Value(word, "Bool")
        if word == ".":
            return Value(self.take(), CASE)
        if word == "(":
            value = self.expression()
            self.take(")")
            return Value(f"({value.code})", value.type)
        if word == "[":
            return self.array()
        if word == "Double" and self.skip("."):
            self.take("pi")
            return Value("Math.PI", "Double")
        return self.called(word) if self.see("(") else Value(word, self.look(word)[0])

    def array(self) -> Value:
        if self.skip("]"):
            return Value("[]", "[]")
        if self.see(*FITTING[WHOLE], "Bool") and self.tokens[self.at + 1] == "]":
            kind = self.take()
            self.take("]")
            (one, value), (other, count) = self.arguments()
            if (one, other) != ("repeating", "count"):
                raise self.refused("an array is made of repeating and count")
            return Value(f"new Array({self.fitted(count, 'Int')}).fill({self.fitted(value, kind)})", f"[{kind}]")
        value = self.expression()
        self.take("]")
        return Value(f"[{value.code}]", f"[{ ({WHOLE: 'Int', FRACTION: 'Double'}.get(value.type, value.type)) }]")

    def arguments(self) -> list[tuple[str, Value]]:
        self.take("(")
        found = []
        while not self.skip(")"):
            label = "_"
            if self.tokens[self.at + 1] == ":":
                label = self.take()
                self.take(":")
            found.append((label, self.expression()))
            if not self.see(")"):
                self.take(",")
        return found

    def called(self, name: str) -> Value:
        given = self.arguments()
        if [label for label, _ in given] == ["bitPattern"] and name == "Float":
            return Value(f"$float({self.fitted(given[0][1], 'UInt32')})", "Float")
        if name in CONVERTED:
            ((_, value),) = given
            if value.type not in (*CONVERTED, WHOLE, FRACTION):
                raise self.refused(f"{name} of {value.type}")
            return Value(CONVERTED[name].format(value.code), name)
        if name in ("max", "min"):
            (_, one), (_, other) = given
            kind = self.common(one, other)
            return Value(f"Math.{name}({one.code}, {other.code})", kind)
        if name in OF_DOUBLES or name == "abs":
            ((_, value),) = given
            return Value(f"Math.{name}({self.fitted(value, 'Double')})", "Double")
        if name in self.names.structs:
            wanted = [(label, kind, False) for label, kind in self.names.structs[name].items()]
            parts = [
                f"{label}: {code}"
                for (label, _, _), code in zip(wanted, self.matched(name, given, wanted), strict=True)
            ]
            return Value(f"({{ {', '.join(parts)} }})", name)
        if name not in self.names.functions:
            raise self.refused(f"{name} is unknown")
        parameters, result = self.names.functions[name]
        return Value(f"{name}({', '.join(self.matched(name, given, parameters))})", result)

    def matched(self, name: str, given: list[tuple[str, Value]], wanted: list[tuple[str, str, bool]]) -> list[str]:
        if [label for label, _ in given] != [label for label, _, _ in wanted]:
            raise self.refused(f"{name} takes {[label for label, _, _ in wanted]}")
        return [self.fitted(value, kind) for (_, value), (_, kind, _) in zip(given, wanted, strict=True)]
