"""The embedded text data set: paragraphs of the docstrings of the installed Python's standard library, by area.

Sources are parsed, never imported. Rows and their order depend on these sources alone.
"""

import ast
import hashlib
import json
import platform
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdc.data.base import SOURCES, Raw, RawTable, Source, sha256
from kdc.errors import KdcError

AREAS = {
    "concurrency": "_threading_local asyncio concurrent multiprocessing queue sched selectors threading",
    "email": "base64 email imaplib mailbox poplib quopri smtplib",
    "files": "_compression _pyio bz2 codecs compression filecmp fileinput fnmatch genericpath glob gzip io lzma ntpath"
    " nturl2path os pathlib posixpath shutil stat tarfile tempfile zipapp zipfile",
    "formats": "configparser csv dbm html json pickle pickletools plistlib shelve sqlite3 tomllib xml",
    "gui": "curses idlelib tkinter turtle turtledemo",
    "language": "_collections_abc _py_abc abc ast collections contextlib copy copyreg dataclasses dis enum functools"
    " inspect operator symtable tabnanny tokenize types typing weakref",
    "modules": "compileall ensurepip importlib modulefinder pkgutil py_compile runpy site sysconfig venv zipimport",
    "network": "ftplib http ipaddress socket socketserver ssl urllib uuid webbrowser wsgiref xmlrpc",
    "numbers": "_pydatetime _pydecimal _pylong _strptime bisect calendar colorsys datetime decimal fractions heapq"
    " numbers random statistics zoneinfo",
    "testing": "bdb cProfile doctest logging pdb profile pstats trace traceback tracemalloc unittest warnings",
}
"""Area -> its top-level modules. Modules that several areas could claim, and those that 3.13 lacks, stand nowhere."""

AREA_OF = {module: area for area, modules in AREAS.items() for module in modules.split()}
MINIMUM_WORDS = 5


@SOURCES.register("stdlib_docs")
class StdlibDocs(Source):
    """Columns `text` (a paragraph of at least five words, whitespace collapsed, once each) and `label` (its area)."""

    def load(self, data_dir: Path | None) -> Raw:
        areas: dict[str, str] = {}
        for module, text in paragraphs(Path(sysconfig.get_paths()["stdlib"])):
            areas.setdefault(text, AREA_OF[module])
        if not areas:
            raise KdcError(
                "dataset stdlib_docs: the standard library of this Python has no source files",
                "use a Python that has them, or another data set (kdc list dataset)",
            )
        columns = {"text": list(areas), "label": list(areas.values())}
        return Raw({"train": RawTable(columns, (("stdlib_docs", len(areas)),))})

    def identity(self, data_dir: Path | None) -> dict[str, Any]:
        digest = hashlib.sha256(json.dumps(AREAS).encode())
        library = Path(sysconfig.get_paths()["stdlib"])
        for _, path in sources(library):
            digest.update(f"{path.relative_to(library).as_posix()}\0{sha256(path)}\0".encode())
        return {"python": platform.python_version(), "sources": digest.hexdigest()}


def sources(library: Path) -> Iterator[tuple[str, Path]]:
    """(top-level module, file) of all that is parsed, in a fixed order."""
    for module in sorted(AREA_OF):
        for path in [library / f"{module}.py", *sorted((library / module).rglob("*.py"))]:
            if path.is_file() and not {"test", "tests", "idle_test"}.intersection(path.relative_to(library).parts):
                yield module, path


def paragraphs(library: Path) -> Iterator[tuple[str, str]]:
    """(top-level module, paragraph) of every docstring under `library`, in a fixed order, repeats included."""
    for module, path in sources(library):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                    words = paragraph.split()
                    if len(words) >= MINIMUM_WORDS:
                        yield module, " ".join(words)
