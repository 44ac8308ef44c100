"""The floors inside a library: `floors.py FILE…`. A file with a line `//! Floors: a < b < …` says in which order the modules of its
folder stand; each may use those before it and no other. Exit code 1 with every line that is otherwise."""
import re
import sys
from pathlib import Path


def plain(text):
    """The text without comments, strings and tests."""
    text = re.sub(r'"(?:\\.|[^"\\])*"', '""', re.sub(r"//[^\n]*", "", text))
    return re.split(r"#\[cfg\(test\)\]\s*mod tests", text)[0]


def paths(tree, prefix=()):
    """All paths of a `use` tree, by its braces."""
    depth, start, parts = 0, 0, []
    for at, letter in enumerate(tree + ","):
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            parts.append(tree[start:at].strip())
            start = at + 1
    for part in filter(None, parts):
        head, brace, rest = part.partition("{")
        names = [name.strip() for name in head.split("::") if name.strip()]
        if brace:
            yield from paths(rest.rstrip()[:-1], (*prefix, *names))
        else:
            yield (*prefix, *[name.split(" as ")[0].strip() for name in names])


def used(text):
    """Every path that a file names: of its `use` lines, and those in its code."""
    text = plain(text)
    for tree in re.findall(r"\buse\s+([^;]+);", text):
        yield from paths(tree)
    for path in re.findall(r"\b(?:crate|super)(?:::\w+)+", re.sub(r"\buse\s+[^;]+;", "", text)):
        yield tuple(path.split("::"))


def check(root):
    text, folder = root.read_text(), root.parent
    line = re.search(r"^//! Floors: (.+)$", text, re.M)
    floors = [name.strip() for name in line[1].split("<")]
    said, there = sorted(floors), sorted(re.findall(r"^(?:pub )?mod (\w+);", plain(text), re.M))
    if said != there:
        yield f"{root}: its floors are {said}, its modules {there}"
    # What the folder's own file lends out belongs to the floor that it is from.
    lent = {}
    for tree in re.findall(r"^pub(?:\(crate\))? use ([^;]+);", plain(text), re.M):
        for path in paths(tree):
            names = [name for name in path if name not in ("crate", "self")]
            lent[names[-1]] = names[0]
    above = "crate" if root.name == "lib.rs" else folder.name
    for floor, name in enumerate(floors):
        files = [folder / f"{name}.rs", *sorted((folder / name).rglob("*.rs"))]
        for file in filter(Path.is_file, files):
            deep = len(file.relative_to(folder).parts) - (file.name == "mod.rs")
            for path in used(file.read_text()):
                ups = len([part for part in path if part == "super"])
                rest = path[ups:]
                if path[0] == "crate":
                    rest = path[1:] if above == "crate" else path[2:] if path[1:2] == (above,) else ()
                elif ups != deep:
                    continue
                if not rest:
                    continue
                of = lent.get(rest[0], rest[0])
                if of not in floors:
                    # `super` may be a module inside the file itself.
                    if path[0] == "crate":
                        yield f"{file}: {'::'.join(path)} is of {root.name}, which stands above all"
                elif floors.index(of) > floor:
                    yield f"{file}: {'::'.join(path)} is above it: {line[1]}"


wrong = [line for file in sys.argv[1:] for line in check(Path(file))]
print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
sys.exit(1 if wrong else 0)
