"""Recipe files: where they are, and YAML read safely."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError, one_line
from ..naming import did_you_mean


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe.

    Raises:
        UserError: there is none; the message lists those that ship.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if path.parent == Path() and path.name.removesuffix(".yaml") in shipped:
        return shipped[path.name.removesuffix(".yaml")]
    what = "a folder" if path.is_dir() else "not there"
    hint = did_you_mean(path.stem, shipped)
    raise UserError(f"recipe {str(name)!r} is {what}{hint}: give a file, or one that ships: {', '.join(shipped)}.")


def shipped_recipes(kind: str = "") -> dict[str, Path]:
    """Recipes that come with the package, by name: in `_recipes/` of a wheel, in `recipes/` of a checkout.

    Args:
        kind (`str`): a folder in there, such as `reward_models`; by default runs' recipes.
    """
    package = Path(__file__).parent.parent
    folder = package / "_recipes"
    if not folder.is_dir():
        folder = package.parent / "recipes"
    return {path.stem: path for path in sorted((folder / kind).glob("*.yaml"))}


def summary(path: Path) -> str:
    """What a recipe is, in a line: its first comment."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").rstrip(".") if first.startswith("#") else ""


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, read safely.

    Raises:
        UserError: a syntax error (with its line), a key that occurs twice, or no mapping.
    """
    return read_yaml_with_lines(path)[0]


def read_yaml_with_lines(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in a YAML file, read safely, and the line that each of its keys is in, counted from 1.

    Raises:
        UserError: as [`read_yaml`].
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: byte {error.object[error.start]:#04x} is not UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}.") from None
    try:
        loader = _UniqueKeyLoader(text)
        node = loader.get_single_node()
        content = None if node is None else loader.construct_document(node)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{path}, line {line}: the character {text[error.position]!a} is not allowed.") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}, line {line}: {error.problem or 'not YAML'}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable as YAML: {one_line(error)}.") from None
    if not isinstance(content, dict) or not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path} must hold a mapping of keys to values, not {type(content).__name__}.")
    lines = {str(key.value): key.start_mark.line + 1 for key, _ in node.value}
    return {str(key): value for key, value in content.items()}, lines


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader lets the last of two equal keys win; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if isinstance(key, str) and key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} occurs twice", key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)
