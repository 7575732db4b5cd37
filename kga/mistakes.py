"""What an error means to the user: one line for a mistake that they can mend."""

import errno
import re
from collections.abc import Iterator

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
FULL = (errno.ENOSPC, errno.EDQUOT)


def explain(error: BaseException) -> str | None:
    """One line for a mistake that the user can mend, or None for a fault of the program."""
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    from kga.errors import UserError

    for cause in chain(error):
        if isinstance(cause, UserError):
            return " ".join(str(cause).split())
        number = cause.errno if isinstance(cause, OSError) else None
        if number in FULL or "No space left on device" in str(cause):
            return f"the disk is full{_named(cause)}: free some space and run the same command again"
        if number in UNWRITABLE:
            return f"{cause.strerror}{_named(cause)}: mend that, or choose other folders with output=DIR, store=DIR"
    of_config = isinstance(error, HydraException | OmegaConfBaseException) or "Config group override" in str(error)
    return config_mistake(error) if of_config and not isinstance(error, InstantiationException) else None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it was raised from, also where that is not to be shown; each once, as those can stand in a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _named(error: BaseException) -> str:
    filename = getattr(error, "filename", None)
    return f" ({filename})" if filename else ""


def config_mistake(error: Exception) -> str:
    """Hydra's message about an unknown key or group value as one line with the nearest names."""
    from kga.errors import nearest

    text = " ".join(str(error).split()).partition(" See https://hydra.cc")[0]
    if value := re.search(
        r"interpolation '\$\{([\w.]+)\}': Value '(.*?)' of type '\w+' could not be converted to (\w+)", text
    ):
        return f"{value[1]}={value[2]} is no {value[3].lower()}"
    if group := re.search(r"Could not load '(\w+)/([^']*)'", text):
        from kga.paths import config_dir

        return f"{group[1]}={group[2]} is unknown: {nearest(group[2], (path.stem for path in (config_dir() / group[1]).glob('*.yaml')))}"
    if group := re.search(r"Could not find '([\w/]+)/([^']*)'", text):
        known = re.findall(r"^\t([^=\n]+)$", str(error), re.MULTILINE)
        return f"{group[1]}={group[2]} is unknown" + (f": {nearest(group[2], known)}" if known else "")
    if key := re.search(r"Could not (?:override|delete from config\.) '([^'=]+)", text):
        return unknown_key(key[1])
    return text


def unknown_key(key: str) -> str:
    """What is wrong with a key that the composed config does not have."""
    from kga.errors import nearest

    group = key.partition(".")[0]
    if having := choices_with(key):
        shown = " or ".join(f"{group}={choice}" for choice in having[:3]) + (", ..." if len(having) > 3 else "")
        return f"the config has no key {key} here, only with {shown}; where {group} is swept, write ++{key}="
    return f"the config has no key {key}: {nearest(key, {*config_keys(), *group_keys(group)})}"


def choices_with(key: str) -> list[str]:
    """The choices of a key's group whose own file has it."""
    from omegaconf import OmegaConf

    from kga.paths import config_dir

    group, *rest = key.split(".")
    found = []
    for path in sorted((config_dir() / group).glob("*.yaml")) if rest else ():
        content = OmegaConf.to_container(OmegaConf.load(path))
        node = content.get(group, content)  # files of the package _global_ name their group
        for part in rest:
            if not isinstance(node, dict) or part not in node:
                break
            node = node[part]
        else:
            found.append(path.stem)
    return found


def group_keys(group: str) -> Iterator[str]:
    """The keys of all choices of a group."""
    from omegaconf import OmegaConf

    from kga.paths import config_dir

    for path in (config_dir() / group).glob("*.yaml"):
        content = OmegaConf.to_container(OmegaConf.load(path))
        own = content.get(group, content)
        yield from (f"{group}.{name}" for name in (own if isinstance(own, dict) else ()) if name != "defaults")


def config_keys() -> list[str]:
    """Every key of the default config, dotted; plus the groups."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from kga.paths import config_dir

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = OmegaConf.to_container(compose("config"), resolve=False)

    def walk(node: dict, prefix: str) -> Iterator[str]:
        for name, value in node.items():
            yield prefix + str(name)
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{name}.")

    return list(walk(cfg, ""))
