"""The part of Swift that an iOS bundle's arithmetic is written in, with its rules on types, as JavaScript for Node.

No Swift compiler is at hand, so what it would refuse is refused here: numbers of two types in one operation, a call
whose labels or types are not those of its function, an assignment to a `let`, a `switch` with a case missing. Where
Swift would stop at run time (an index outside an array, a byte outside 0 to 255, a range that runs backwards), the
JavaScript stops too. Anything that is not in the subset is an error.
"""

from __future__ import annotations

import re
from typing import Any

from tests.unit.bundles.swift_expressions import FRACTION, WHOLE, Expressions, Names, Value

PLAIN = {"Int": int, "Double": (int, float), "UInt8": int, "String": str, "Bool": bool}
"""What Codable takes for a type, as json reads it."""
RUNTIME = """
const $stop = (why) => { throw new Error(why); };
const $at = (a, i) => (i >= 0 && i < a.length ? a[i] : $stop(`index ${i} of ${a.length}`));
const $put = (a, i, v) => { $at(a, i); a[i] = v; };
const $whole = (x, end) => (Math.trunc(x) >= 0 && x < end ? Math.trunc(x) : $stop(`${x} is not below ${end}`));
const $bits = (x) => new Uint32Array(Float32Array.of(x).buffer)[0];
const $float = (word) => new Float32Array(Uint32Array.of(word).buffer)[0];
const $ending = (a, b) => (b >= a ? b : $stop(`range ${a}..<${b}`));
const $halfEven = (x) => {
  const low = Math.floor(x), over = x - low;
  return over > 0.5 || (over === 0.5 && low % 2 !== 0) ? low + 1 : low;
};
"""


def translate(types: str, sources: list[str]) -> str:
    """JavaScript, its functions exported under their names.

    Args:
        types: Swift whose enums and structs are used, and nothing else of it.
        sources: Swift to translate.
    """
    names = declared(types)
    for source in sources:
        _Parser(source, names).types()
        _Parser(source, names).signatures()
    return RUNTIME + "\n".join(_Parser(source, names).file() for source in sources)


def declared(source: str) -> Names:
    """Enums and structs of a file."""
    names = Names()
    _Parser(source, names).types()
    return names


def undecodable(value: Any, kind: str, names: Names, where: str) -> list[str]:
    """Entries of a JSON value that Swift's JSONDecoder, told to convert from snake case, could not put into a type.

    Args:
        value: As json reads it.
        kind: Swift's type.
        names: Where structs and enums are found.
        where: What the value is called.
    """
    if kind.endswith("?"):
        return [] if value is None else undecodable(value, kind[:-1], names, where)
    if kind.startswith("["):
        if not isinstance(value, list):
            return [f"{where} is no {kind}"]
        return [each for n, part in enumerate(value) for each in undecodable(part, kind[1:-1], names, f"{where}[{n}]")]
    if kind in names.enums:
        return [] if value in names.enums[kind].values() else [f"{where} is no {kind}"]
    if kind not in names.structs:
        right = isinstance(value, PLAIN[kind]) and (kind == "Bool" or not isinstance(value, bool))
        return [] if right and (kind != "UInt8" or 0 <= value < 256) else [f"{where} is no {kind}"]
    entries = {re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), name): entry for name, entry in value.items()}
    return [
        each
        for name, part in names.structs[kind].items()
        for each in undecodable(entries.get(name), part, names, f"{where}.{name}")
    ]


class _Parser(Expressions):
    # Declarations.

    def types(self) -> None:
        while self.at < len(self.tokens):
            kind = self.take()
            if kind not in ("enum", "struct"):
                if kind in ("func", "extension"):
                    self.block_over()
                continue
            name = self.take()
            while not self.skip("{"):
                self.take()
            fields: dict[str, str] = {}
            if kind == "enum":
                self.take("case")
                while not self.skip("}"):
                    case = self.take()
                    fields[case] = self.take().strip('"') if self.skip("=") else case
                    self.skip(",")
                self.names.enums[name] = fields
                continue
            while not self.skip("}"):
                self.skip("public")
                word = self.take("let", "init", "static", "var")
                if word == "let":
                    case = self.take()
                    self.take(":")
                    fields[case] = self.type()
                elif word == "static":
                    self.at += 4
                else:
                    self.block_over()
            self.names.structs[name] = fields

    def signatures(self) -> None:
        while self.at < len(self.tokens):
            if self.take() == "func":
                name = self.take()
                self.names.functions[name] = ([(a, t, d) for a, _, t, d in self.parameters()], self.type())
                self.block_over()

    def parameters(self) -> list[tuple[str, str, str, bool]]:
        found = []
        self.take("(")
        while not self.skip(")"):
            label = name = self.take()
            if not self.see(":"):
                name = self.take()
            self.take(":")
            kind = self.type()
            if given := self.skip("="):
                self.take()
            found.append((label, name, kind, given))
            self.skip(",")
        self.take("->")
        return found

    def file(self) -> str:
        made = []
        while self.at < len(self.tokens):
            self.skip("public")
            word = self.take("let", "func", "struct")
            if word == "struct":
                self.block_over()
            elif word == "let":
                made.append(self.declaration("let"))
            else:
                name = self.take()
                parameters = self.parameters()
                self.result = self.type()
                self.scopes.append({name: (kind, False) for _, name, kind, _ in parameters})
                made.append(f"export function {name}({', '.join(each[1] for each in parameters)}) {self.block()}")
                self.scopes.pop()
        return "\n".join(made)

    # Statements.

    def block(self) -> str:
        self.take("{")
        self.scopes.append({})
        made = []
        while not self.skip("}"):
            made.append(self.statement())
        self.scopes.pop()
        return "{\n" + "\n".join(made) + "\n}"

    def statement(self) -> str:
        word = self.take()
        if word in ("let", "var"):
            return self.declaration(word)
        if word == "return":
            return f"return {self.fitted(self.expression(), self.result)};"
        if word == "continue":
            return "continue;"
        if word == "if" and self.see("let"):
            return self.unwrapping()
        if word in ("if", "while"):
            return f"{word} ({self.fitted(self.expression(), 'Bool')}) {self.block()}"
        if word == "for":
            return self.loop()
        if word == "switch":
            return self.switch()
        if word == "preconditionFailure":
            self.take("(")
            why = self.take()
            self.take(")")
            return f"$stop({why});"
        self.at -= 1
        return self.assignment()

    def declaration(self, word: str) -> str:
        name = self.take()
        kind = self.type() if self.skip(":") else ""
        self.take("=")
        value = self.expression()
        kind = kind or {WHOLE: "Int", FRACTION: "Double"}.get(value.type, value.type)
        code = self.fitted(value, kind)
        self.scopes[-1][name] = (kind, word == "var")
        return f"{'let' if word == 'var' else 'const'} {name} = {code};"

    def unwrapping(self) -> str:
        names, scope = [], {}
        while self.skip("let"):
            name = self.take()
            self.take("=")
            value = self.expression()
            if not value.type.endswith("?"):
                raise self.refused(f"{value.type} is no optional")
            names.append(f"{name} = {value.code}")
            scope[name] = (value.type[:-1], False)
            self.skip(",")
        there = " && ".join(f"{name} !== null" for name in scope)
        self.scopes.append(scope)
        body = self.block()
        self.scopes.pop()
        return f"{{ const {', '.join(names)};\nif ({there}) {body} }}"

    def loop(self) -> str:
        name = self.take()
        self.take("in")
        first = self.expression()
        if self.skip("..<"):
            start, end = self.fitted(first, "Int"), self.fitted(self.expression(), "Int")
            head, kind = (
                f"for (let {name} = {start}, {name}$ = $ending({name}, {end}); {name} < {name}$; {name} += 1)",
                "Int",
            )
        elif first.type.startswith("["):
            head, kind = f"for (const {name} of {first.code})", first.type[1:-1]
        else:
            raise self.refused(f"{first.type} has no elements")
        self.scopes.append({name: (kind, False)})
        body = self.block()
        self.scopes.pop()
        return f"{head} {body}"

    def switch(self) -> str:
        value = self.expression()
        left, made = dict(self.names.enums[value.type]), []
        self.take("{")
        while self.skip("case"):
            labels = []
            while not self.skip(":"):
                self.take(".")
                labels.append(left.pop(self.take(), ""))
                if not labels[-1]:
                    raise self.refused(f"{value.type} has no such case left")
                self.skip(",")
            heads = " ".join(f'case "{label}":' for label in labels)
            made.append(f"{heads} {{ {self.statement()} break; }}")
        self.take("}")
        if left:
            raise self.refused(f"switch has no case for {', '.join(left)}")
        return f"switch ({value.code}) {{\n" + "\n".join(made) + "\n}"

    def assignment(self) -> str:
        name = self.take()
        kind, mutable = self.look(name)
        if not mutable:
            raise self.refused(f"{name} is a let")
        if self.skip("["):
            index = self.fitted(self.expression(), "Int")
            self.take("]")
            self.take("=")
            return f"$put({name}, {index}, {self.fitted(self.expression(), kind[1:-1])});"
        if self.skip("."):
            self.take("append")
            self.take("(")
            value = self.fitted(self.expression(), kind[1:-1])
            self.take(")")
            return f"{name}.push({value});"
        sign = self.take("=", "+=")
        value = self.expression()
        if sign == "+=":
            value = self.operated(Value(name, kind), "+", value)
        return f"{name} = {self.fitted(value, kind)};"
