"""The command line: composes the config, calls the experiment, turns mistakes into one line and exit code 2."""

import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator

TRACEBACK = "HYDRA_FULL_ERROR"
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
FULL = (errno.ENOSPC, errno.EDQUOT)


def main() -> None:
    """``kga key=value ...`` and ``kga -m key=a,b ...``: a Hydra application."""
    wanted = os.environ.get(TRACEBACK) == "1"
    os.environ[TRACEBACK] = "1"  # so that Hydra hands errors over instead of printing them
    mistakes: list[Exception] = []
    try:
        application(mistakes)()
    except KeyboardInterrupt:
        print("kga: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if explain(error) is None:
            raise
        mistakes.append(error)
    finally:
        if not wanted:
            os.environ.pop(TRACEBACK, None)
    for error in mistakes:
        if wanted:
            traceback.print_exception(error)
        print(f"kga: {explain(error)}", file=sys.stderr)
    if mistakes:
        sys.exit(2)


def application(mistakes: list[Exception]) -> Callable[[], None]:
    """Hydra's main around one run. Collects user mistakes, so that the other runs of a sweep go on.

    In a process of a launcher's (a SLURM job) a mistake is raised instead, so that the job is shown as failed.
    """
    import hydra

    from kga import config, ranks
    from kga.paths import config_dir

    config.register()
    process = os.getpid()

    @hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")
    def run(cfg) -> None:
        try:
            plain = config.resolved(cfg)
            config.check(plain)
            execute(plain) if plain["forget"].get("list") else ranks.launch(execute, plain)
        except Exception as error:
            if explain(error) is None or os.getpid() != process:
                raise
            mistakes.append(error)

    return run


def execute(cfg: dict) -> dict | None:
    """One run: the experiment, its report, and what a person reads at the end; or what could be forgotten, listed."""
    from kga import config, experiment, listing, ranks
    from kga.console import print_result

    if cfg["forget"].get("list"):
        return listing.list_candidates(cfg)
    result, folder = experiment.run(cfg)
    if not ranks.is_main():
        return None
    report = folder / "report.html"
    # What the report shows can be asked for anew; the result's key does not depend on it.
    if not report.is_file() or cfg["report"]["texts"] is not None:
        from kga.inputs import texts_of
        from kga.report.run import evaluated_ids, write_run_report  # draws figures: slow to import

        report = write_run_report(folder, texts_of(cfg, evaluated_ids(folder)) if config.shows_texts(cfg) else None)
    print_result(result, report)
    return result


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
    """The error, and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _named(error: BaseException) -> str:
    filename = getattr(error, "filename", None)
    return f" ({filename})" if filename else ""


def config_mistake(error: Exception) -> str:
    """Hydra's message about an unknown key or group value as one line with the nearest names."""
    from kga.errors import nearest

    text = " ".join(str(error).split()).partition(" See https://hydra.cc")[0]
    if group := re.search(r"Could not find '([\w/]+)/([^']*)'", text):
        known = re.findall(r"^\t([^=\n]+)$", str(error), re.MULTILINE)
        return f"{group[1]}={group[2]} is unknown" + (f": {nearest(group[2], known)}" if known else "")
    if key := re.search(r"Could not (?:override|delete from config\.) '([^'=]+)", text):
        return unknown_key(key[1])
    return text


def unknown_key(key: str) -> str:
    """What is wrong with a key that the composed config does not have."""
    from kga.errors import nearest

    known = config_keys()
    if key in known:
        return f"the config has no key {key} here: only another choice of {key.split('.')[0]}=... has it"
    return f"the config has no key {key}: {nearest(key, known)}"


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
