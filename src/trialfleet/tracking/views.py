"""How MLflow's pages show a study: a saved view with useful columns and charts, and links to it.

MLflow's run list shows neither metrics nor parameters until each reader has chosen columns. A saved view,
which MLflow keeps as a tag of the experiment, chooses them for everybody: the study's trials, best first,
with objective, parameters, state and job; and a chart of parameters against the objective. It has the
study's name in the menu 'Views'.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from trialfleet.tracking.dedup import metric_name
from trialfleet.tracking.mlflow_runs import param_name

MAX_COLUMNS = 12  # of parameters; a chart with more axes says nothing
LINKED = 10  # of the best trials
_TAG = "mlflow.sharedViewState."
_SECTION = "study"


@dataclass(frozen=True)
class Page:
    """A study in MLflow, with what its pages need to know."""

    name: str
    uid: str
    experiment_id: str
    run_id: str  # of the study's own run
    objectives: Mapping[str, str]  # metric → 'minimize' or 'maximize'


def key(uid: str) -> str:
    """The name of the study's view in links."""
    return f"trialfleet-{uid[:32]}"


def tag_name(uid: str) -> str:
    """The experiment's tag that holds the study's view."""
    return _TAG + key(uid)


def view(page: Page, params: Sequence[str], at: int) -> str:
    """The value of the experiment's tag.

    Args:
        params: names of the trials' parameters, of which the first MAX_COLUMNS are shown.
        at: milliseconds since 1970.
    """
    state = json.dumps(_state(page, [param_name(name) for name in params[:MAX_COLUMNS]]))
    return json.dumps({"name": page.name, "createdAt": at, "updatedAt": at, "state": state})


def links(base: str, page: Page, has_view: bool) -> dict[str, str]:
    """What there is to look at → its address, under the MLflow server at `base`."""
    runs = f"{base}/#/experiments/{page.experiment_id}/runs"
    facets = f"&viewStateShareKey={key(page.uid)}" if has_view else _facets(page)
    trials = f"{runs}?workflowType=machine_learning{facets}"
    return {
        "trials, best first": trials,
        "curves and parameters": f"{trials}&compareRunsMode=CHART",
        "summary": f"{runs}/{page.run_id}?workflowType=machine_learning",
    }


def link_line(page: Page, has_view: bool, has_report: bool, best: Mapping[int, str]) -> str:
    """What there is to look at of a study, in a line of Markdown for its run's own page: links within that server.

    Args:
        best: the best trials by number, and their runs.
    """
    run = f"#/experiments/{page.experiment_id}/runs/{page.run_id}"
    report = {"report": f"{run}/artifacts/report.html", "figures": f"{run}/artifacts/figures"} if has_report else {}
    pages = {name: address for name, address in links("", page, has_view).items() if name != "summary"}
    trials = {
        f"trial {number} ★": f"#/experiments/{page.experiment_id}/runs/{run_id}"
        for number, run_id in list(best.items())[:LINKED]
    }
    return " · ".join(f"[{name}]({address.lstrip('/')})" for name, address in {**report, **pages, **trials}.items())


def objective_names(objectives: Mapping[str, object]) -> list[str]:
    """The objectives' names as MLflow's metrics: `objective`, or `objective/<metric>` if there are several."""
    if len(objectives) == 1:
        return ["objective"]
    return [f"objective/{metric_name(name)}"[:250] for name in objectives]


def _order(page: Page) -> tuple[str, bool]:
    """The column to sort by, and whether it rises."""
    if not page.objectives:
        return "attributes.start_time", False
    return f"metrics.`{objective_names(page.objectives)[0]}`", next(iter(page.objectives.values())) == "minimize"


def _filter(page: Page) -> str:
    return f"tags.mlflow.parentRunId = '{page.run_id}'"


def _facets(page: Page) -> str:
    column, rising = _order(page)
    return f"&searchFilter={quote(_filter(page))}&orderByKey={quote(column)}&orderByAsc={'true' if rising else 'false'}"


def _state(page: Page, params: Sequence[str]) -> dict[str, Any]:
    column, rising = _order(page)
    results = objective_names(page.objectives) if page.objectives else []
    tags = ["trialfleet.state", "trialfleet.attempt", "trialfleet.job_id"]
    columns = [f"metrics.`{name}`" for name in results] + [f"params.`{name}`" for name in params]
    section = {"uuid": _SECTION, "name": "Study", "display": True, "columns": 2}
    return {
        "searchFilter": _filter(page),
        "orderByKey": column,
        "orderByAsc": rising,
        "selectedColumns": columns + [f"tags.`{name}`" for name in tags],
        "compareRunSections": [{**section, "isReordered": False, "deleted": False, "isGenerated": False}],
        "compareRunCharts": _charts(page, results, params),
        **({"runsHiddenMode": "SHOW_ALL"} if len(results) > 1 else {}),  # a front is one of all trials
    }


def _charts(page: Page, results: Sequence[str], params: Sequence[str]) -> list[dict[str, Any]]:
    """Objectives against each other, parameters against them, each by itself, and the curves they come from."""
    base = {"runsCountToCompare": 100, "metricSectionId": _SECTION, "deleted": False, "isGenerated": False}
    axes = {"selectedParams": list(params), "selectedMetrics": list(results), "showAllRuns": True}
    charts: list[dict[str, Any]] = []
    for name in results[1:]:  # as the figures of the report have them: the first one across
        across, up = ({"key": key, "type": "METRIC"} for key in (results[0], name))
        charts.append({**base, "uuid": f"front {name}", "type": "SCATTER", "xaxis": across, "yaxis": up})
    if params:
        charts.append({**base, "uuid": "parallel", "type": "PARALLEL", **axes})
    for name in results:
        charts.append({**base, "uuid": f"bar {name}", "type": "BAR", "metricKey": name, "displayName": name})
    for name in page.objectives:
        curve = metric_name(name)
        keys = {"metricKey": curve, "selectedMetricKeys": [curve], "displayName": curve}
        charts.append({**base, "uuid": f"line {name}", "type": "LINE", **keys})
    return charts
