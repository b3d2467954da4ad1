"""Studies side by side: which came further for the same hours, and what was different about them."""

from collections.abc import Sequence

from trialfleet.review import comparison
from trialfleet.review.report import page, progress_figures
from trialfleet.review.report.axes import cut
from trialfleet.review.report.drawing import BEST, COMPLETE, FAILED, OTHER, PRUNED, RUNNING, Figure
from trialfleet.review.report.page import Html
from trialfleet.review.report.view import View
from trialfleet.review.report.wording import hours_text, moment
from trialfleet.review.tables import best_text, number
from trialfleet.sweep.study import study_record

COLORS = (COMPLETE, PRUNED, BEST, RUNNING, FAILED, OTHER)


class Comparison:
    """Makes the sections, and collects the figures that have a place in them."""

    def __init__(self, views: Sequence[View]) -> None:
        self.views = views
        self.studies = [view.study for view in views]
        self.names = comparison.column_names(self.studies)
        self.colors = [COLORS[place % len(COLORS)] for place in range(len(views))]
        self.figures: list[Figure] = []

    def head(self) -> Html:
        said = f"As of {moment(self.views[0].now)}: {len(self.views)} studies side by side."
        return (
            f"<h1>{page.text(' and '.join(cut(name, 60) for name in self.names))}</h1>{page.paragraph(said, 'soft')}"
            + page.paragraph(self._answer(), "answer")
        )

    def all(self) -> list[tuple[str, str, Html]]:
        made = [
            ("race", "The best over the hours", self._race()),
            ("outcomes", "What came of them", self._outcomes()),
            ("best", "Their best trials", self._best()),
            ("differences", "What was different", self._differences()),
        ]
        return [(name, title, page.section(name, title, inside)) for name, title, inside in made if inside]

    @property
    def _comparable(self) -> bool:
        """Whether all wanted the same of the same first objective."""
        first = self.studies[0]
        same = {(study.metrics[0], study.directions[0]) for study in self.studies} == {
            (first.metrics[0], first.directions[0])
        }
        return same and any(len(view.complete) for view in self.views)

    def _answer(self) -> str:
        if not self._comparable:
            return "They have no result of the same objective: their best values cannot be compared."
        metric = self.studies[0].metrics[0]
        sign = 1.0 if self.studies[0].directions[0] == "minimize" else -1.0
        found = [
            (sign * best.values[0], name)
            for name, view in zip(self.names, self.views, strict=True)
            if (best := view.best_of(0)) is not None and best.values is not None
        ]
        if not found:
            return "None of them has a best trial."
        value, name = min(found, key=lambda one: one[0])
        said = f"{name} came to the best {metric}: {number(sign * value)}"
        budgets = [float(one.ended.hours[-1]) if len(one.ended.hours) else 0.0 for one in self.views]
        least = min(budgets)
        if least <= 0 or len(found) < 2:
            return f"{said}."
        at_least = []
        for one_name, one in zip(self.names, self.views, strict=True):
            reached = [one.ended.values[place] for place in one.ended.best if one.ended.hours[place] <= least]
            at_least.append(f"{one_name} {number(float(reached[-1]))}" if reached else f"{one_name} nothing")
        return (
            f"{said}. With the first {hours_text(least)} of device time, which all of them had: {', '.join(at_least)}."
        )

    def _race(self) -> Html:
        if not self._comparable:
            return ""
        figures = [
            progress_figures.race(self.views, self.names, self.colors, True),
            progress_figures.race(self.views, self.names, self.colors, False),
            progress_figures.spread(self.views, self.names, self.colors),
        ]
        self.figures += figures
        captions = {"spread": "All complete trials of each: the middle half, the median, and where 80 % of them are."}
        return page.grid(figures, captions)

    def _outcomes(self) -> Html:
        rows = [
            (
                name,
                study.state,
                f"{study.finished:,}",
                f"{study.counts['COMPLETE']:,}",
                f"{study.counts['PRUNED']:,}",
                f"{study.counts['FAIL']:,}",
                best_text(study),
                hours_text(view.account.total),
            )
            for name, study, view in zip(self.names, self.studies, self.views, strict=True)
        ]
        head = ["study", "state", "ended", "complete", "pruned", "failed", "best", "device time"]
        return page.table(head, rows, numeric=[2, 3, 4, 5, 7])

    def _best(self) -> Html:
        found = [view.study.front[0] if len(view.study.front) == 1 else None for view in self.views]
        if not any(found):
            return ""
        names = dict.fromkeys(name for row in found if row is not None for name in row.params)
        rows = [[name, *("" if row is None else number(row.params.get(name)) for row in found)] for name in names]
        trials = [
            f"{name}, trial {row.number}" if row is not None else name
            for name, row in zip(self.names, found, strict=True)
        ]
        return page.table(["parameter", *trials], rows)

    def _differences(self) -> Html:
        differing = comparison.differing(self.studies)
        if not differing:
            return page.paragraph("Nothing in their settings: the same was asked of all.")
        rows = [
            [key, *("(not there)" if value is None else cut(study_record.shown(key, value), 80) for value in values)]
            for key, values in differing.items()
        ]
        return page.table(["setting", *self.names], rows)
