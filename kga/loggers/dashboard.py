"""`kga-dashboard`: a ready workspace on W&B for the runs of a project: curves, methods side by side, what alpha does."""

from __future__ import annotations

import argparse
import json
import sys

import wandb

from kga.errors import UserError

STEP = "trainer/global_step"
METHOD, ALPHA = "choices.method", "method.alpha"  # in a run's config
CURVES = {
    "unlearn/a": "a: gap between A* and A_f on D_f",
    "unlearn/g": "g: gap between A_D and A_n on D_n",
    "unlearn/sign": "sign of a - g: the direction of the update",
    "unlearn/retain": "retain term",
    "unlearn/loss": "loss of an update",
}
LOOKS = {
    "unlearn/utility_validation": "utility on validation while unlearning",
    "unlearn/utility_forget": "utility on the forget set while unlearning",
}
RESULTS = {
    "score/unlearned/tow": "tug of war",
    "utility/unlearned/forget/accuracy": "accuracy on the forget set",
    "utility/unlearned/forget/token_accuracy": "token accuracy on the forget set",  # of tasks that generate text
    "forgetting/unlearned/forget/jsd": "JSD to the retrained model on the forget set",
    "seconds/unlearn": "seconds to unlearn",
}
SYSTEM = {
    "system.cpu": "CPU of the process, %",
    "system.proc.memory.rssMB": "memory of the process, MB",
    "system.gpu.0.gpu": "GPU, %",
    "system.gpu.0.memoryAllocatedBytes": "GPU memory, bytes",
}


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, or 2 after a mistake of the user, told in one line."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.dry_run:
            print(json.dumps(described(workspace(arguments.entity or "", arguments.project)), indent=2))
        else:
            print(save(arguments.entity, arguments.project))
    except UserError as error:
        print(f"kga-dashboard: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kga-dashboard", description="Make a W&B workspace for the runs of a project and print its address."
    )
    parser.add_argument("--entity", metavar="E", help="user or team that owns the project (your own)")
    parser.add_argument("--project", default="kga", metavar="P", help="project with the runs (kga)")
    parser.add_argument("--dry-run", action="store_true", help="print the workspace as JSON; nothing is sent")
    return parser


def save(entity: str | None, project: str) -> str:
    """Makes the workspace on the server; its address. UserError without a key, or where the server refuses."""
    wandb.setup(wandb.Settings(silent=True))
    try:
        if not wandb.login(prompt=False, verify=False):
            raise UserError("no W&B key: run `wandb login` or set WANDB_API_KEY (--dry-run needs none)")
        made = workspace(entity or wandb.Api().default_entity, project)
        made.save()
        return made.url
    except (wandb.Error, ValueError, TypeError, KeyError, OSError) as error:
        where = f"{entity}/{project}" if entity else project
        raise UserError(f"W&B did not take the workspace for {where}: {' '.join(str(error).split())[:300]}") from error


def workspace(entity: str, project: str):
    """The workspace, as wandb-workspaces has it. UserError without that package."""
    try:
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError('wandb-workspaces is missing: pip install "kga[dashboard]"') from error
    return ws.Workspace(
        entity=entity,
        project=project,
        name="kga",
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in _panels().items()],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=50),
        runset_settings=ws.RunsetSettings(pinned_columns=[f"summary:{name}" for name in RESULTS]),
        auto_generate_panels=True,  # for what no panel here can name: ROC curves, losses, tables of a sweep
    )


def described(made) -> dict:
    """What would be sent, as plain values."""
    model = made._to_model()  # the package has no public way to see a workspace without saving it
    spec = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    return {"entity": model.entity, "project": model.project, "name": model.display_name, "spec": spec}


def _panels() -> dict[str, list]:
    """The panels of each section."""
    import wandb_workspaces.reports.v2 as wr

    def over(x: str, curves: dict[str, str]) -> list:
        return [wr.LinePlot(title=title, x=x, y=[name], smoothing_type="none") for name, title in curves.items()]

    method, alpha = wr.Config(METHOD), wr.Config(ALPHA)
    bars = [
        wr.BarPlot(
            title=f"{title}, mean over runs of a method", metrics=[name], orientation="v",
            groupby=method, groupby_aggfunc="mean", groupby_rangefunc="stddev", max_runs_to_show=1000,
        )
        for name, title in RESULTS.items()
    ]  # fmt: skip
    tow, *_, seconds = map(wr.SummaryMetric, RESULTS)
    trade = wr.ScatterPlot(title="tug of war against seconds", x=seconds, y=tow)
    alphas = [
        wr.ScatterPlot(title=f"{title} against alpha", x=alpha, y=wr.SummaryMetric(name))
        for name, title in RESULTS.items()
    ]
    return {
        "While it unlearns": over(STEP, CURVES),
        "Utility over updates": over(STEP, LOOKS),
        "Methods": [*bars, trade],
        "Alpha": alphas,
        "System": over("RelativeTime(Process)", SYSTEM),
    }


if __name__ == "__main__":
    sys.exit(main())
