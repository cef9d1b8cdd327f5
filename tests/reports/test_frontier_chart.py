"""The chart of the early-stopping benchmark."""

from privacy_gate.reports import charts
from privacy_gate.reports import document as doc


def test_of_the_stops_of_a_training_only_those_that_count_have_a_label():
    def stop(name, test, attack):
        found = doc.Interval(value=attack, low=attack - 0.01, high=attack + 0.01)
        return doc.Stop(name=name, train_accuracy=1.0, test_accuracy=test, attacks={"confidence": found})

    stops = tuple(stop(f"epoch {2 * n}", 0.5 + n / 100, 0.5 + n / 50) for n in range(1, 11))
    own = stop("the candidate", 0.595, 0.7)
    found = doc.Frontier(source="retraining", candidate=own, stops=stops, matched=8, dominated_by=(6, 7))
    chart = charts.frontier(found)
    assert [mark.label for mark in chart.marks] == ["2", "", "", "", "", "", "14", "", "18", "20", "C"]
    # The candidate's label stands where its numbers are, whoever else is there.
    assert (chart.marks[-1].at_x, chart.marks[-1].at_y) == (chart.marks[-1].x, chart.marks[-1].y)
    assert charts.number(3, stop("models:/m/7", 0.5, 0.5)) == "4"
