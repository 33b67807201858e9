"""Something of the user's own, by where it is: ``package.module:name`` or ``./file.py:name``.

Finds it, calls it, and says of which source it is. To find it runs the module that it is in; to say its
source runs nothing. Knows no kind of thing.
"""

import ast
import hashlib
import importlib
import inspect
import re
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions, version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from decayfree.errors import DecayFreeError, InvalidInputError, closest

FORMS = ("package.module:NAME", "./file.py:NAME")
_WORD = r"[^\W\d]\w*"
_DOTTED = rf"{_WORD}(?:\.{_WORD})*"
_FORM = re.compile(rf"(?:\./(?P<file>[^:\\]+\.py)|(?P<module>{_DOTTED})):(?P<name>{_DOTTED})")


@dataclass(frozen=True)
class _Place:
    """Where files are looked for, and what has been found there: nothing is loaded twice, changed or not."""

    folder: Path
    found: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, "Source"] = field(default_factory=dict)


_PLACE: ContextVar[_Place | None] = ContextVar("place", default=None)


@contextmanager
def looking_in(folder: str | Path | None) -> Iterator[None]:
    """Inside, ``./file.py`` is a file of this folder, and modules there can be imported; None is the current.

    What has been found once stays what it is until the end, whatever becomes of its file.
    """
    token = _PLACE.set(_Place(Path(folder or ".").resolve()))
    try:
        yield
    finally:
        _PLACE.reset(token)


class Args(tuple[tuple[str, Any], ...]):
    """Arguments by name, as a value that can be hashed: numbers, texts, true and false, lists and tables.

    Lists are tuples in it, and so are they in what is called with it.

    Example:
        >>> Args.of({"width": 8, "sides": [3, 4]}).to_dict()
        {'width': 8, 'sides': (3, 4)}
    """

    __slots__ = ()
    in_words = "a table of numbers, texts, true and false, lists of these and tables"

    @staticmethod
    def of(table: Mapping[str, Any]) -> "Args":
        """From a table; an `InvalidInputError` says which of it cannot be written in a file."""
        return Args((name, _frozen(name, value)) for name, value in table.items())

    def to_dict(self) -> dict[str, Any]:
        """By name; tables within are dictionaries as well."""
        return {name: value.to_dict() if isinstance(value, Args) else value for name, value in self}


@dataclass(frozen=True)
class Source:
    """What something was made of.

    Attributes:
        version: Name and version of the installed package that it is in; empty where it is in none.
        sha256: Of its file, as ``sha256sum`` says it; of what that prints of several files, by their names
            below the folder, where it imports others from beside it. Empty where there is no such file.
        files: Name below the folder -> file, of those that are in no installed package.
    """

    version: str
    sha256: str
    files: Mapping[str, Path] = field(default_factory=dict, compare=False)

    def to_dict(self) -> dict[str, str]:
        """Without the files."""
        return {"version": self.version, "sha256": self.sha256}


class Address(str):
    """The text ``package.module:name`` or ``./file.py:name``.

    Raises:
        InvalidInputError: If a text has another form.
    """

    __slots__ = ()
    in_words = " or ".join(FORMS)

    def __new__(cls, text: str) -> "Address":
        if _match(text) is None:
            raise InvalidInputError(f"expected {cls.in_words}, got {text!r}{hint(text)}")
        return super().__new__(cls, text)

    @staticmethod
    def taken(value: Any) -> Any:
        """An address for a text that is one, or for a class or function; other values as they are.

        Raises:
            InvalidInputError: If a class or function has no name under which another process finds it.
        """
        if isinstance(value, Address):
            return value
        if isinstance(value, str):
            return value if _match(value) is None else Address(value)
        if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
            return _address_of(value)
        return value

    def label(self, args: Args) -> str:
        """As tables say it: mine.py:Net, width 8."""
        told = (f"{name.replace('_', ' ')} {_short(value)}" for name, value in args.to_dict().items())
        return ", ".join([self.removeprefix("./"), *told])

    def thing(self) -> Any:
        """The thing itself: its module is imported, which runs it.

        Raises:
            InvalidInputError: If there is no such file, module or name, or the module cannot be imported.
        """
        place = _PLACE.get() or _Place(Path.cwd())
        if self not in place.found:
            place.found[self] = self._in(self._module(place.folder))
        return place.found[self]

    def call(
        self,
        *given: Any,
        args: Mapping[str, Any],
        also: Mapping[str, Any] = types.MappingProxyType({}),
        gives: type | tuple[type, ...],
        said: str,
    ) -> Any:
        """What it makes.

        Args:
            given: Its first arguments.
            args: By name.
            also: By name too, where it has parameters of these names that ``args`` does not set.
            gives: The kinds of what it has to return.
            said: The same in words.

        Raises:
            InvalidInputError: If it cannot be found or be called so, if it raises, or returns another kind.
        """
        thing = self.thing()
        if not callable(thing):
            raise InvalidInputError(
                f"{self}: expected a class or a function that gives {said}, got {thing!r}"
            )
        try:
            signature = inspect.signature(thing)
        except (TypeError, ValueError):  # of some that are written in C
            signature = None
        if signature is not None:
            args = {**{name: also[name] for name in also if name in signature.parameters}, **args}
            try:
                signature.bind(*given, **args)
            except TypeError as error:
                words = ["…"] * len(given) + [f"{name}={_short(value)}" for name, value in args.items()]
                raise InvalidInputError(
                    f"{self}: expected to be called as {self._name}({', '.join(words)}), got one that takes "
                    f"{signature}: {error}"
                ) from error
        try:
            made = thing(*given, **args)
        except Exception as error:  # whatever it raises, its name must be in the message
            raise InvalidInputError(f"{self} raised {type(error).__name__}: {error}") from error
        if not isinstance(made, gives):
            raise InvalidInputError(f"{self}: expected to give {said}, got {type(made).__name__}")
        return made

    def source(self) -> Source:
        """Of which version and source it is; runs nothing of it."""
        place = _PLACE.get() or _Place(Path.cwd())
        if self not in place.sources:
            place.sources[self] = self._source(place.folder)
        return place.sources[self]

    def _source(self, folder: Path) -> Source:
        match = _parts(self)
        if match["file"]:
            path, root = folder / match["file"], folder
        else:
            top = str(match["module"]).partition(".")[0]
            found = _path_of(str(match["module"]), folder)
            if found is None or _is_installed(found):
                names = sorted(set(_distributions().get(top, [])))
                made = ", ".join(f"{name} {version(name)}" for name in names)
                return Source(made, _sha256({found.name: found}) if found else "")
            path, root = found, _root(found, str(match["module"]))
        files = _with_its_imports(path, root)
        return Source("", _sha256(files), files)

    @property
    def _name(self) -> str:
        return str(_parts(self)["name"])

    def _module(self, folder: Path) -> Any:
        match = _parts(self)
        try:
            if match["file"]:
                path = folder / match["file"]
                if not path.is_file():
                    raise InvalidInputError(f"{self}: there is no file {path}")
                return _loaded(path, folder)
            return _imported(str(match["module"]), folder, self.source())
        except DecayFreeError:
            raise
        except ModuleNotFoundError as error:
            looked = f" (looked in {folder} and where Python's packages are)" if error.name else ""
            raise InvalidInputError(f"{self}: no module named {error.name!r}{looked}{hint(self)}") from error
        except Exception as error:  # whatever a module raises while it is imported
            raise InvalidInputError(f"{self} cannot be imported: {type(error).__name__}: {error}") from error

    def _in(self, module: Any) -> Any:
        thing = module
        for part in self._name.split("."):
            known = (
                [key for key in vars(thing) if not key.startswith("_")] if hasattr(thing, "__dict__") else []
            )
            if not hasattr(thing, part):
                raise InvalidInputError(f"{self}: there is no {part!r}{closest(part, known)}")
            thing = getattr(thing, part)
        return thing


def hint(text: str) -> str:
    """The end of a message about a text that may have been meant for a file.

    Example:
        >>> hint("mine.py:Net"), hint("mine:Net")
        ('; a file is ./mine.py:Net', '')
        >>> hint("../mine.py:Net")
        '; a file is looked for in the current folder and below it: ./file.py:NAME'
    """
    path, _, name = text.rpartition(":")
    if not path.endswith(".py"):
        return ""
    if path[:1] in "/~" or ".." in path or _match(f"./{path}:{name}") is None:
        return "; a file is looked for in the current folder and below it: ./file.py:NAME"
    return f"; a file is ./{path}:{name}"


def _match(text: str) -> re.Match[str] | None:
    found = _FORM.fullmatch(text)
    return found if found and ".." not in (found["file"] or "").split("/") else None


def _parts(address: Address) -> re.Match[str]:
    match = _match(address)
    assert match is not None
    return match


def _address_of(thing: Any) -> Address:
    module, name = thing.__module__, thing.__qualname__
    if "<" in name:
        raise InvalidInputError(
            f"{name} of {module} has no name that other processes could import it by: expected a class or "
            "function at the top of a module, with its settings as args"
        )
    if module != "__main__":
        return Address(f"{module}:{name}")
    path = getattr(sys.modules["__main__"], "__file__", None)
    if path is None or not Path(path).resolve().is_relative_to(Path.cwd()):
        raise InvalidInputError(
            f"{name} is defined where other processes cannot import it: put it into a file, and name it "
            f"./file.py:{name}"
        )
    return Address(f"./{Path(path).resolve().relative_to(Path.cwd()).as_posix()}:{name}")


def _loaded(path: Path, folder: Path) -> Any:
    """The module that a file is, by what is in it: once it has changed, it is another one."""
    files = _with_its_imports(path, folder)
    mark = hashlib.sha256(f"{path} {_sha256(files)}".encode()).hexdigest()
    name = f"own_{path.stem}_{mark[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    # Others of these names may be loaded, from another folder or from before a change.
    before = {one: sys.modules.pop(one) for one in _modules(files) if one in sys.modules}
    _can_import_from(folder)
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.modules.update(before)
    return module


def _imported(name: str, folder: Path, source: Source) -> Any:
    """A module by its dotted name; anew where what is loaded is from elsewhere, or from before a change."""
    _can_import_from(folder)
    importlib.invalidate_caches()
    loaded, path = sys.modules.get(name), _path_of(name, folder)
    if loaded is not None and path is not None and source.files:
        is_elsewhere = Path(getattr(loaded, "__file__", None) or path).resolve() != path.resolve()
        if is_elsewhere or _LOADED.get(name, source) != source:
            for one in _modules(source.files):
                sys.modules.pop(one, None)
    _LOADED[name] = source
    return importlib.import_module(name)


_LOADED: dict[str, Source] = {}
"""Dotted name -> from which source it was loaded here."""


def _modules(files: Mapping[str, Path]) -> list[str]:
    return [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in files]


def _can_import_from(folder: Path) -> None:
    """As Python does with the folder of a script."""
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))


def _path_of(module: str, folder: Path) -> Path | None:
    """The file of a module, found without importing the packages around it."""
    where: Any = [str(folder), *sys.path]
    spec = None
    for end in range(1, module.count(".") + 2):
        spec = PathFinder.find_spec(".".join(module.split(".")[:end]), where)
        if spec is None:
            return None
        where = spec.submodule_search_locations or []
    return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None


def _root(path: Path, module: str) -> Path:
    """The folder that a module's dotted name begins in."""
    depth = module.count(".") + (path.name == "__init__.py")
    return path.parents[depth]


def _is_installed(path: Path) -> bool:
    places = {"site-packages", "dist-packages"}
    return not places.isdisjoint(path.parts) or path.is_relative_to(sysconfig.get_path("stdlib"))


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def _with_its_imports(path: Path, root: Path) -> dict[str, Path]:
    """A file, and those below the same root that it imports, and these import; by their names below it."""
    files: dict[str, Path] = {}
    left = [path]
    while left:
        one = left.pop()
        name = one.relative_to(root).as_posix()
        if name in files or not one.is_file():
            continue
        files[name] = one
        package = name.split("/")[:-1]
        left += [
            candidate
            for module in _imports_of(one, package)
            for end in range(1, len(module) + 1)
            for candidate in (
                root.joinpath(*module[: end - 1], f"{module[end - 1]}.py"),
                root.joinpath(*module[:end], "__init__.py"),
            )
        ]
    return dict(sorted(files.items()))


def _imports_of(path: Path, package: list[str]) -> Iterator[list[str]]:
    """What a file imports, or may import, each as the parts of its name; nothing of one that is damaged."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = [*above, *(node.module.split(".") if node.module else [])]
            yield from ([*module, *alias.name.split(".")] for alias in node.names if alias.name != "*")
            if module:
                yield module


def _sha256(files: Mapping[str, Path]) -> str:
    """Of one file; of the lines that ``sha256sum`` prints of several."""
    each = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    if len(each) <= 1:
        return "".join(each.values())
    return hashlib.sha256("".join(f"{sha}  {name}\n" for name, sha in each.items()).encode()).hexdigest()


def _frozen(name: str, value: Any, *, in_list: bool = False) -> Any:
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple) and not isinstance(value, Args):
        return tuple(_frozen(name, one, in_list=True) for one in value)
    if isinstance(value, Args | Mapping) and not in_list:
        return Args.of(dict(value))
    raise InvalidInputError(
        f"{name}: expected a number, a text, true or false, a list of these or a table, got {_short(value)}"
    )


def _short(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:60]} …"
