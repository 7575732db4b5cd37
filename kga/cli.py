"""The command line: composes the config, calls the experiment, turns mistakes into one line and exit code 2."""

import os
import sys
import traceback
from collections.abc import Callable

from kga.errors import RunFailed, UserError
from kga.mistakes import explain

TRACEBACK = "HYDRA_FULL_ERROR"


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
        sys.exit(max(getattr(error, "code", 2) for error in mistakes))


def application(mistakes: list[Exception]) -> Callable[[], None]:
    """Hydra's main around one run. Collects a user's mistakes; in a sweep they are raised, and its launcher tells of them."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from kga import config, ranks
    from kga.paths import config_dir
    from kga.sweeps import plugins
    from kga.sweeps.hparams import objectives

    config.register()
    plugins.register()

    @hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")
    def run(cfg) -> tuple[float, float] | None:
        try:
            _require_sweep(HydraConfig.get())
            plain = config.resolved(cfg)
            config.check(plain)
            if plain["forget"].get("list"):
                return execute(plain)
            return objectives(ranks.launch(execute, plain))
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise portable(error) from None
            if explain(error) is None:
                raise
            mistakes.append(error)

    return run


def _require_sweep(of_hydra) -> None:
    """UserError where the settings of a sweep are given to a single run, which would be made here and now."""
    from hydra.types import RunMode

    if of_hydra.mode == RunMode.MULTIRUN:
        return
    experiment = of_hydra.runtime.choices.get("experiment")
    if experiment and of_hydra.sweeper.get("params"):
        from kga.console import note

        note(f"a single run of the experiment: kga -m experiment={experiment} makes its sweep")
    for group in ("launcher", "hparams"):
        choice = of_hydra.runtime.choices.get(group)
        if choice not in (None, "none"):
            raise UserError(
                f"{group}={choice} is for the runs of a sweep, be it of one: add -m, as in kga -m {group}={choice}"
            )


def portable(error: Exception) -> UserError:
    """The error of a run of a sweep as other processes can read it. What is no mistake is shown here, with its traceback."""
    line = explain(error)
    if line is not None:
        return error if isinstance(error, RunFailed) else UserError(line)
    traceback.print_exception(error)
    return RunFailed("".join(traceback.format_exception_only(error)).strip().splitlines()[0])


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
