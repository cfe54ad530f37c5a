"""One name has one meaning, and one thing one name: banned words, names that are defined twice."""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache

import pytest

from utils.app.config import PROJECT_DIR

# Words to replace by a standard term of the field; only those whose use is unambiguous.
INSTEAD = {
    r"ow(e|es|ed|ing)": "subscribed, pending",
    r"for(get|gets|getting|got|gotten)": "drop",
    r"bur(y|ies|ied|ial|ials)": "dead letter",
    r"mend(s|ed|ing)?": "fix, repair",
    r"foreign": "external",
    r"figures": "statistics",
    r"pictures?": "image",
    r"moods?": "sentiment",
    r"refus(e|es|ed|ing|al|als)": "reject",
    r"lack(s|ed|ing)?": "missing",
    r"adopt(s|ed|ing|ion)?": "a run has ids of its own",
    r"holdings?": "contents, or what it is in the place",
    r"inks?": "text colour",
}
IN_NAMES = INSTEAD | {r"say|says|said|told|tells": "print, log, report"}  # in prose these are common verbs
PHRASES = {r"\b(go|goes|went) on\b": "continue, resume", r"\bg(ive|ives|ave|iven) out\b": "assign"}

# Uses of these words in libraries and standards.
ALLOWED = re.compile(
    r"PRAGMA foreign_keys|FOREIGN KEY|foreign_keys|Connection(Refused|refused)\w*|connection refused|ECONNREFUSED"
    r"|make_pictures|make pictures|PNG pictures"
)
EXEMPT: tuple[str, ...] = ("tests/test_words.py", "tests/corpus/")

FOLDERS = ("utils", "producers", "consumers", "scripts")


def _files(*patterns: str) -> list[str]:
    found = (path.relative_to(PROJECT_DIR).as_posix() for each in patterns for path in PROJECT_DIR.glob(each))
    return sorted(name for name in found if not name.startswith(EXEMPT))


PRODUCT = _files("*.py", *(f"{folder}/**/*.py" for folder in FOLDERS))
DOCUMENTS = _files("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md", ".env.example", "requirements*.txt")
TESTS = _files("tests/**/*.py")


def words(text: str) -> Iterator[str]:
    """Yield the words of a text, also within identifiers: `_say_owedSince` has four."""
    yield from re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)


@cache
def better(word: str, in_names: bool) -> str:
    """Return the term to use instead of a word, or ""."""
    instead = IN_NAMES if in_names else INSTEAD
    return next((term for pattern, term in instead.items() if re.fullmatch(pattern, word, re.IGNORECASE)), "")


@cache
def wrong_words(text: str, in_names: bool) -> tuple[str, ...]:
    found = ((word, better(word, in_names)) for word in words(ALLOWED.sub("", text)))
    return tuple(f"{word} (use: {term})" for word, term in found if term)


def wrong_phrases(text: str) -> Iterator[str]:
    for pattern, better in PHRASES.items():
        for found in re.finditer(pattern, text, re.IGNORECASE):
            yield f"{found[0]} (use: {better})"


def identifiers(source: str) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each name in a module."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string


def found_in_text(name: str) -> list[str]:
    lines = (PROJECT_DIR / name).read_text(encoding="utf-8").splitlines()
    return [
        f"{name}:{number}: {word}"
        for number, line in enumerate(lines, 1)
        for word in (*wrong_words(line, in_names=False), *wrong_phrases(line))
    ]


def found_in_names(name: str) -> list[str]:
    source = (PROJECT_DIR / name).read_text(encoding="utf-8")
    return [
        f"{name}:{line}: {identifier}: {word}"
        for line, identifier in identifiers(source)
        for word in wrong_words(identifier, in_names=True)
    ]


def test_the_words_of_the_field_are_used() -> None:
    found = [word for name in (*PRODUCT, *DOCUMENTS) for word in found_in_text(name)]
    found += [word for name in (*PRODUCT, *TESTS) for word in found_in_names(name)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", ["what is owed", "_say_owed", "forgetSink", "FOREIGN records", "It was buried."])
def test_the_search_sees_words_in_any_form(text: str) -> None:
    assert wrong_words(text, in_names=True)


@pytest.mark.parametrize(
    "text", ["PRAGMA foreign_keys=ON", "ConnectionRefusedError", "link", "power", "showed", "thinks"]
)
def test_the_search_passes_over_other_words(text: str) -> None:
    assert not wrong_words(text, in_names=True)


# One name, one meaning -----

# Public functions and classes that several modules of utils define, and the common meaning.
SAME_MEANING = {
    "emit_message": "each emitter has it for calls from a loop or a notebook",
    "mapped_errors": "the context manager of a client that maps its library's errors",
    "open_emitter": "the registry finds it in the emitter's module",
    "open_source": "the registry finds it in the source's module",
    "columns": "the columns of a table that exists, in a client's library",
}


def defined(paths: dict[str, str]) -> dict[str, list[str]]:
    """Return the public classes and functions at module level, with the modules that define them."""
    found = defaultdict(list)
    for name, source in paths.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                found[node.name].append(name)
    return found


def test_no_name_has_two_meanings_and_every_exception_is_needed() -> None:
    paths = {name: (PROJECT_DIR / name).read_text(encoding="utf-8") for name in PRODUCT if name.startswith("utils/")}
    several = {name for name, files in defined(paths).items() if len(files) > 1}
    assert several == SAME_MEANING.keys()


def test_the_scan_sees_a_name_that_is_defined_twice() -> None:
    found = defined(
        {"a.py": "class Reading: ...\ndef _private(): ...", "b.py": "def Reading(): ...\ndef _private(): ..."}
    )
    assert found == {"Reading": ["a.py", "b.py"]}


# Docstrings -----

CLAUSE = re.compile(r"(What|Who|Whoever|Which|Whether|Where|How|That|The one)\b")


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring of a module, its classes, functions and attributes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def test_docstrings_begin_with_an_imperative_or_a_noun_phrase() -> None:
    sources = {name: (PROJECT_DIR / name).read_text(encoding="utf-8") for name in (*PRODUCT, *TESTS)}
    found = [f"{name}:{line}: {text}" for name, source in sources.items() for line, text in docstrings(source)]
    assert len(found) > 1_000
    assert not [each for each in found if CLAUSE.match(each.split(": ", 1)[1])]


def test_the_search_sees_each_kind_of_docstring() -> None:
    source = (
        '"""Module."""\nA = 1\n"""Attribute."""\nclass B:\n    """Class."""\n    def c(self):\n        """Method."""'
    )
    assert sorted(docstrings(source)) == [(1, "Module."), (3, "Attribute."), (5, "Class."), (7, "Method.")]
    assert CLAUSE.match("What comes next.")
    assert not CLAUSE.match("Whatever")
