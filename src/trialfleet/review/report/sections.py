"""What the report of one study says, section by section, in words for somebody who did not run it."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from trialfleet.review.report import page, parameter_figures, progress_figures, slot_figures
from trialfleet.review.report.account import FAILED, FAULTS
from trialfleet.review.report.axes import cut
from trialfleet.review.report.drawing import Figure
from trialfleet.review.report.failures import SHOWN as SHOWN_CAUSES
from trialfleet.review.report.neighbours import nearest
from trialfleet.review.report.page import Html
from trialfleet.review.report.runs import natural
from trialfleet.review.report.view import View
from trialfleet.review.report.wording import begun, between, hours_text, moment, quartiles, searched
from trialfleet.review.tables import duration, number
from trialfleet.sweep.study.index import RUNNING, TrialRow
from trialfleet.tracking import delivery_log
from trialfleet.trial import secrets

FRONT = 20  # trials of a Pareto front in a table
METRICS = 12  # of the best trial
TRIALS = 12  # numbers of trials in a sentence
WAYS = {"minimize": "least", "maximize": "greatest"}
LAUNCHERS = {"SlurmLauncher": "Slurm jobs", "LocalLauncher": "processes of one machine"}


class Sections:
    """Makes the sections, and collects the figures that have a place in them."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.study = view.study
        self.figures: list[Figure] = []

    def all(self) -> list[tuple[str, str, Html]]:
        """Name, title and content of each section that has something to say."""
        made = [
            ("asked", "What was asked", self._asked()),
            ("best", "The front" if len(self.study.metrics) > 1 else "The best trial", self._best()),
            ("history", "How it went", self._history()),
            ("curves", "Learning curves", self._curves()),
            ("parameters", "What matters", self._parameters()),
            ("slots", "Who ran where", self._slots()),
            ("hours", "Where the hours went", self._hours()),
            ("failures", "What failed", self._failures()),
            ("run", "What was run", self._run()),
        ]
        return [(name, title, page.section(name, title, inside)) for name, title, inside in made if inside]

    def _place(self, *figures: Figure | None) -> list[Figure]:
        known = [figure for figure in figures if figure is not None]
        self.figures += known
        return known

    # ---------------------------------------------------------------- head

    def head(self) -> Html:
        state = {"running": "running", "finished": "finished", "stopped": "stopped before its end"}[self.view.state]
        badge = f"<span class='state {page.text(self.view.state)}'>{page.text(state)}</span>"
        return "".join(
            [
                f"<h1>{page.text(self.study.name)} {badge}</h1>",
                page.paragraph(self.standing(), "soft"),
                page.paragraph(self._answer(), "answer"),
                page.tiles(self._tiles()),
            ]
        )

    def standing(self) -> str:
        """How many trials have ended how, in a sentence."""
        study = self.study
        going = study.counts[RUNNING]
        unfinished = f", {going} are running" if going else ""
        counts = ", ".join(
            f"{study.counts[name]:,} {word}"
            for name, word in (("COMPLETE", "complete"), ("PRUNED", "pruned"), ("FAIL", "failed"))
            if study.counts[name]
        )
        counted = f" ({counts})" if counts else ""
        ended = f"{study.finished:,} of {self._total} trials have ended"
        return f"As of {moment(self.view.now)}: {ended}{counted}{unfinished}."

    @property
    def _total(self) -> str:
        return "?" if self.study.total is None else f"{self.study.total:,}"

    def _answer(self) -> str:
        study, view = self.study, self.view
        if not study.front:
            if not study.rows:
                return "No trial has begun yet."
            complete = study.counts["COMPLETE"]
            if complete:
                return f"No trial is the best: none of the {complete} complete ones keeps its bounds."
            pruned, failed = study.counts["PRUNED"], study.counts["FAIL"]
            if study.finished and pruned == study.finished:
                return "There is no result: every trial that has ended was pruned."
            if study.finished and failed == study.finished:
                return "There is no result: every trial that has ended has failed; the reasons are below."
            return "No trial is complete yet." if self.view.state == "running" else "No trial is complete."
        if len(study.metrics) > 1:
            verb = "is" if len(study.front) == 1 else "are"
            return (
                f"{len(study.front)} of {len(view.complete):,} complete trials {verb} on the Pareto front of "
                f"{' and '.join(study.metrics)}: no trial is better in one of these without being worse in another."
            )
        best = study.front[0]
        found = f"The best of {len(view.complete):,} complete trials is trial {best.number}: {self._values(best)}"
        place = next((at for at, row in enumerate(view.ended.rows) if row.number == best.number), None)
        if place is None or study.finished < 2 or view.ended.hours[-1] <= 0:
            return f"{found}."
        spent = hours_text(float(view.ended.hours[place]))
        hours = f"{spent} of device time ({hours_text(view.account.total)} in all)"
        return f"{found}, found after {place + 1:,} of {study.finished:,} trials and {hours}."

    def _values(self, row: TrialRow) -> str:
        return ", ".join(
            f"{name} = {number(value)}" for name, value in zip(self.study.metrics, row.values or (), strict=False)
        )

    def _tiles(self) -> Iterator[tuple[str, str]]:
        study, account = self.study, self.view.account
        if len(study.metrics) == 1 and study.front and study.front[0].values:
            yield f"best {study.metrics[0]}", number(study.front[0].values[0])
        yield "trials ended", f"{study.finished:,} / {self._total}"
        if account.total:
            at_a_time = f"{account.slots} trial{'s' if account.slots != 1 else ''} at a time"
            yield f"device time, {at_a_time}", hours_text(account.total)
        if account.saved:
            yield "saved by pruning (estimate)", hours_text(account.saved)
        lost = account.spent.get(FAULTS, 0.0)
        if lost:
            yield "lost to faults", hours_text(lost)
        if study.counts["FAIL"]:
            yield "failed", f"{study.counts['FAIL']:,}"

    # ---------------------------------------------------------------- what was asked

    def _asked(self) -> Html:
        study, told = self.study, self.study.command
        aims = " and ".join(
            f"the {WAYS.get(way, way)} {metric}" for metric, way in zip(study.metrics, study.directions, strict=False)
        )
        count = len(study.space)
        what = (
            f"Which values of {count} parameter{'s' if count != 1 else ''} give {aims}?"
            if count
            else f"Wanted: {aims}."
        )
        planned = "" if told is None else f" {told.n_trials:,} trials were planned, {told.n_jobs} at a time."
        bounds = (
            ""
            if told is None or not told.constraints
            else (
                " Only trials count that keep "
                + " and ".join(f"{metric} {bound}" for metric, bound in told.constraints.items())
                + "."
            )
        )
        by = study.record.sampler.rpartition(".")[2]
        proposed = f" Their parameters were proposed by {by}." if by else ""
        judged = (
            "" if told is None or told.reports is None else f" A pruner judged them by {told.reports} as they went."
        )
        rows = [(name, cut(searched(text), 160)) for name, text in study.space.items()]
        space = page.table(["parameter", "searched over"], rows) if rows else ""
        return page.paragraph(what + planned + bounds + proposed + judged) + space

    # ---------------------------------------------------------------- the best

    def _best(self) -> Html:
        study, view = self.study, self.view
        if not study.front:
            return ""
        if len(study.metrics) > 1:
            return self._front()
        best = study.front[0]
        others = nearest(best, [row for row in view.complete if study.keeps_bounds(row)], view.axes)
        said = page.paragraph(self._spread(best, [other.row for other in others]))
        names = [
            axis.name
            for axis in view.axes
            if axis.name in best.params or any(axis.name in o.row.params for o in others)
        ]
        shown = names[:10]
        metric = study.metrics[0]
        rows: list[list[object]] = [self._row(best, shown, "the best")]
        rows += [self._row(other.row, shown, f"{other.distance:.0%} away") for other in others]
        head = ["trial", metric, "", *(view.short.get(name, name) for name in shown)]
        table = page.table(head, rows, numeric=[0, 1], marked=0) if others else ""
        params = page.pairs(
            [(name, repr(value) if isinstance(value, float) else value) for name, value in best.params.items()]
        )
        facts = page.pairs(
            [
                ("took", duration(best.seconds)),
                ("ended", "" if best.ended is None else moment(best.ended)),
                ("ran on", f"{best.node} ({best.job})" if best.job else best.node),
                *((f"last {name}", number(value)) for name, value in _akin_first(best.metrics, metric)[:METRICS]),
            ]
        )
        near = page.paragraph(
            "Distances are over all parameters, in parts of what was searched (logarithms where the search had them)."
            if others
            else "",
            "soft",
        )
        return (
            f"{said}<div class='grid'><div><h3>Trial {best.number}</h3>{params}</div>"
            f"<div><h3>Its run</h3>{facts}</div></div>" + (f"<h3>Its neighbours</h3>{near}{table}" if others else "")
        )

    def _row(self, row: TrialRow, names: Sequence[str], where: str) -> list[object]:
        value = number(row.values[0]) if row.values else ""
        return [row.number, value, where, *(cut(number(row.params.get(name)), 24) for name in names)]

    def _spread(self, best: TrialRow, near: Sequence[TrialRow]) -> str:
        """How the best compares with all, and with those around it."""
        view, metric = self.view, self.study.metrics[0]
        finite = view.values[:, 0][np.isfinite(view.values[:, 0])]
        if len(finite) < 2 or best.values is None:
            return "It is the only complete trial: nothing can be said of how sure it is."
        said = [
            f"Half of all complete trials have a {metric} between {quartiles(finite)}; the median is "
            f"{np.median(finite):.4g}."
        ]
        again = [row for row in view.complete if row.params == best.params and row.number != best.number]
        if again:
            values = np.array([row.values[0] for row in again if row.values])
            said.append(
                f"{len(again)} more trial{'s' if len(again) > 1 else ''} with the very same parameters came to "
                f"{between(values)}: that much is chance."
            )
        around = np.array([row.values[0] for row in near if row.values and math.isfinite(row.values[0])])
        if len(around) > 1:
            sign = 1.0 if self.study.directions[0] == "minimize" else -1.0
            better = int(np.sum(sign * around < sign * float(np.median(finite))))
            if len(around) > len(finite) / 2:  # half of nearly all trials are better than the median, wherever they lie
                verdict = "too few trials to tell a region from luck"
            else:
                verdict = "a region" if better >= 0.75 * len(around) else "a narrow place, or luck"
            said.append(
                f"Its {len(around)} nearest neighbours came to {between(around)}, {better} of them better than that "
                f"median: {verdict}."
            )
        return " ".join(said)

    def _front(self) -> Html:
        study, view = self.study, self.view
        count = len(study.metrics)
        places = [(0, 1)] if count == 2 else [(0, other) for other in range(1, count)]
        figures = self._place(*(progress_figures.pareto(view, *place) for place in places))
        sign = 1.0 if study.directions[0] == "minimize" else -1.0
        rows = sorted(study.front, key=lambda row: sign * (row.values or [0.0])[0])
        names = [axis.name for axis in view.axes][:8]
        shown = (
            rows
            if len(rows) <= FRONT
            else [rows[at] for at in np.linspace(0, len(rows) - 1, FRONT).round().astype(int)]
        )
        body = [
            [
                row.number,
                *(number(value) for value in row.values or ()),
                *(cut(number(row.params.get(name)), 24) for name in names),
            ]
            for row in shown
        ]
        head = ["trial", *study.metrics, *(view.short.get(name, name) for name in names)]
        table = page.table(head, body, numeric=range(count + 1))
        left = f"{FRONT} of the {len(rows)}, evenly chosen." if len(rows) > FRONT else ""
        return page.grid(figures) + page.paragraph(left, "soft") + table

    # ---------------------------------------------------------------- pictures

    def _history(self) -> Html:
        if not self.view.ended.rows:
            return ""
        figures = [progress_figures.history(self.view, False)]
        if self.view.ended.hours[-1] > 0:
            figures.append(progress_figures.history(self.view, True))
        several = len(self.study.metrics) > 1
        which = f"{self.study.metrics[0]}, the first objective," if several else self.study.metrics[0]
        said = f"{which} of each trial in the order of their ends, the best so far, and how many ended how."
        return page.paragraph(said) + page.grid(self._place(*figures))

    def _curves(self) -> Html:
        known = [metric for metric, found in self.view.curves.items() if found]
        if not known:
            return ""
        figures = [progress_figures.learning_curves(self.view, metric) for metric in known]
        said = "What trials reported while they ran: the best in green, most others in blue, pruned ones in yellow."
        return page.paragraph(said) + page.grid(self._place(*figures))

    def _parameters(self) -> Html:
        view, study = self.view, self.study
        if not view.axes or not view.complete:
            return ""
        parts = [self._importances()]
        if len(view.complete) > 1:
            several = len(study.metrics) > 1
            good = "those on the Pareto front" if several else "the best tenth"
            parts.append("<h3>All parameters together</h3>")
            parts.append(
                page.paragraph(f"Each line is a complete trial, or many that went the same way; {good} in green.")
            )
            parts += [page.figure(one) for one in self._place(parameter_figures.parallel(view))]
        objectives = range(min(2, len(study.metrics)))
        maps = [parameter_figures.landscape(view, place) for place in objectives]
        if placed := self._place(*maps):
            names = " and ".join(view.short.get(axis.name, axis.name) for axis in view.axes[:2])
            parts.append(f"<h3>{page.text('Over ' + names)}</h3>")
            captions = {one.name: study.metrics[int(one.name.rpartition("-")[2])] + "." for one in placed}
            parts.append(page.grid(placed, captions))
        for place in objectives:
            parts.append(f"<h3>{page.text(study.metrics[place])} against each parameter</h3>")
            if len(view.complete) > parameter_figures.FEW:
                said = "The stronger the colour, the more trials; the line is their median; the star is the best."
                parts.append(page.paragraph(said, "soft"))
            slices = parameter_figures.slices(view, place)
            parts.append(page.grid(self._place(*slices), small=True))
        if (left := len(view.axes) - parameter_figures.SLICES) > 0:
            parts.append(page.paragraph(f"{left} less important parameters have no picture.", "soft"))
        return "".join(parts)

    def _importances(self) -> Html:
        view, study = self.view, self.study
        if not view.importances:
            why = "all had the same result" if len(view.complete) > 3 else "too few are complete"
            return page.paragraph(f"Which parameters matter cannot be told yet: {why}." if len(view.axes) > 1 else "")
        said = (
            "How much of the difference between good trials and all others each parameter explains "
            "(PED-ANOVA, as Optuna has it)."
        )
        parts = [page.paragraph(said)]
        for metric, shares in zip(study.metrics, view.importances, strict=True):
            if len(study.metrics) > 1:
                parts.append(f"<h3>{page.text(metric)}</h3>")
            entries = [(name, share, f"{share:.0%}", "") for name, share in list(shares.items())[:20]]
            parts.append(page.bars(entries))
        return "".join(parts)

    # ---------------------------------------------------------------- what it cost

    def _slots(self) -> Html:
        figure = slot_figures.timeline(self.view)
        if figure is None:
            return ""
        account = self.view.account
        busy = account.total / (account.total + account.idle) if account.total + account.idle else 0.0
        many = f"in up to {account.slots} places" if account.slots != 1 else "one"
        said = f"Trials ran {many} at a time, busy for {busy:.0%} of the time that a driver was at work."
        return page.paragraph(said) + "".join(page.figure(one) for one in self._place(figure))

    def _hours(self) -> Html:
        account = self.view.account
        if not account.total:
            return ""
        entries = [
            (
                name,
                hours,
                f"{hours_text(hours)} · {hours / account.total:.0%}",
                "bad" if name in (FAILED, FAULTS) else "",
            )
            for name, hours in account.spent.items()
        ]
        besides: list[tuple[str, float, str, str]] = [("idle places", account.idle, hours_text(account.idle), "soft")]
        if account.saved is not None and self.study.counts["PRUNED"]:
            besides.append(("saved by pruning (estimate)", account.saved, hours_text(account.saved), "good"))
        each = "a device" if account.devices == 1 else f"{account.devices} devices"
        said = f"{hours_text(account.total)} of devices in all, each trial on {each}."
        waited = ""
        if account.queued is not None and account.queued_median is not None:
            waited = (
                f"Jobs waited {hours_text(account.queued)} in the queue together, half of them less than "
                f"{'a second' if account.queued_median < 1 else duration(account.queued_median)}: no device was held "
                "meanwhile."
            )
        note = "Saved is what pruned trials would have taken besides, had each run as long as the median complete one."
        note = note if self.study.counts["PRUNED"] and account.saved is not None else ""
        return (
            page.paragraph(said)
            + page.bars(entries)
            + "<h3>Besides</h3>"
            + page.bars(besides)
            + page.paragraph(waited)
            + page.paragraph(note, "soft")
        )

    # ---------------------------------------------------------------- what failed

    def _failures(self) -> Html:
        causes = self.view.causes
        if not causes:
            return page.paragraph("No trial has failed, and no run was lost.") if self.study.finished else ""
        parts = []
        for tried_again, title in (
            (False, "Trials that failed"),
            (True, "Runs that were lost, and whose trials were tried again"),
        ):
            of_kind = [cause for cause in causes if cause.tried_again is tried_again]
            if not of_kind:
                continue
            parts.append(f"<h3>{title}</h3>")
            for place, cause in enumerate(of_kind[:SHOWN_CAUSES]):
                trials = ", ".join(map(str, cause.trials[:TRIALS])) + (", …" if len(cause.trials) > TRIALS else "")
                nodes = ", ".join(cause.nodes[:6]) + (", …" if len(cause.nodes) > 6 else "")
                where = f"trial{'s' if len(cause.trials) > 1 else ''} {trials}" + (f"; on {nodes}" if nodes else "")
                lines = f"The last lines of trial {cause.example}:"
                log = f"{page.paragraph(lines, 'soft')}<pre>{page.text(cause.log)}</pre>" if cause.log else ""
                opened = " open" if place == 0 and not tried_again else ""
                parts.append(
                    f"<details{opened}><summary><b class=count>{len(cause.trials):,}</b> "
                    f"{page.text(cut(cause.what, 300))}</summary>{page.paragraph(where, 'soft')}{log}</details>"
                )
            if (left := len(of_kind) - SHOWN_CAUSES) > 0:
                parts.append(page.paragraph(f"{left} more causes, of fewer trials each.", "soft"))
        return "".join(parts)

    # ---------------------------------------------------------------- what was run

    def _run(self) -> Html:
        study, told, code = self.study, self.study.command, self.study.record.code
        nodes = sorted({one.node for one in self.view.runs if one.node}, key=natural)
        run = delivery_log.run_of(study.folder)
        entries: list[tuple[str, object]] = [
            ("command", "" if told is None else secrets.masked(told.resume)),
            ("commit", code.get("commit", "none: the code was in no repository")),
            ("code", f"digest {code['digest']}" if code.get("digest") else ""),
            ("lock", code.get("lock", "")),
            ("script", code.get("script", "")),
            ("the same for all trials", "" if told is None else "\n".join(told.fixed)),
            ("seed", study.record.seed),
            ("sampler", study.record.sampler),
            ("launcher", "" if told is None else told.launcher),
            ("nodes", f"{len(nodes)}: {', '.join(nodes[:40])}{', …' if len(nodes) > 40 else ''}" if nodes else ""),
            ("begun", begun(study.record.created)),
            ("drivers at work", duration(study.used["wall_hours"] * 3600) if study.used.get("wall_hours") else ""),
            ("folder", study.folder),
            (
                "storage",
                "a journal in the folder" if study.record.storage == "null" else secrets.masked(study.record.storage),
            ),
            ("MLflow", self._in_mlflow(run)),
            ("uid", study.record.uid),
        ]
        served = "" if told is None else str(told.tracking.get("uri", "")).rstrip("/")
        address = "" if run is None else f"{served}/#/experiments/{run[0]}/runs/{run[1]}"
        return page.pairs(entries) + page.link(address, "Its runs in MLflow: curves, logs and artifacts of each trial")

    def _in_mlflow(self, run: tuple[str, str] | None) -> str:
        told = self.study.command
        if told is None or not told.tracking:
            return ""
        said = "{uri}, experiment {experiment}".format(**told.tracking)
        return said if run is None else f"{said}, run {run[1]}"


def _akin_first(metrics: Mapping[str, float], objective: str) -> list[tuple[str, float]]:
    """Those of the objective's own group (val/…) before all others."""
    group = objective.partition("/")[0]
    return sorted(metrics.items(), key=lambda one: one[0].partition("/")[0] != group)
