"""The lessons, run by Streamlit's own test driver: every lesson opens by its link, every dial changes something, the answer waits for a guess."""

import pytest
from test_explore import CEILING, checked, opened, seen, specs, widget, words

from rotviz.lessons import LESSONS


@pytest.mark.parametrize("name", list(LESSONS))
def test_lesson_hides_its_answer_until_a_guess_and_every_dial_works(name):
    at = opened("lessons", lesson=name)
    lesson = LESSONS[name]
    assert lesson.title in words(at) and len(at.latex) == len(lesson.formulas)
    hidden = len(specs(at))
    guess = at.radio(key=f"guess-{name}")
    assert guess.value is None and not at.success and not at.warning
    guess.set_value(guess.options[0])
    checked(at.run())
    assert len(specs(at)) > hidden and len(at.success) + len(at.warning) == 1 and "1 lesson of 8 answered" in words(at)
    assert all(len(spec) < CEILING for spec in specs(at)) and all(c.proto.alt for c in at.get("plotly_chart"))
    for dial in lesson.dials:
        before = seen(at)
        other = next((o for o in dial.options if o != dial.default), None)
        widget(at, dial.key).set_value(other or (not dial.default if isinstance(dial.default, bool) else type(dial.default)(dial.high)))
        if widget(at, dial.key).value == dial.default:
            widget(at, dial.key).set_value(type(dial.default)(dial.low))
        assert seen(checked(at.run())) != before, dial.key


def test_link_of_a_teacher_opens_the_same_state():
    at = opened("lessons", lesson="Clipping", bits2="3", clip2="0.6", answer="true", b="0")
    assert at.slider(key="bits2").value == 3 and at.slider(key="clip2").value == 0.6 and at.toggle(key="answer").value
    assert "3-bit grid" in words(at) and "Your dial at 0.6" in words(at) and not at.success and not at.warning


def test_steps_lead_through_the_lessons_and_hide_the_answer():
    at = opened("lessons", answer="true")
    assert len(specs(at)) == 2
    at.button(key="next").click().run()
    assert checked(at).button_group(key="lesson").value == "Clipping" and len(specs(at)) == 1
    at.button(key="previous").click().run()
    assert checked(at).button_group(key="lesson").value == "Grid"


def test_a_pill_hides_the_answer_too():
    at = opened("lessons", answer="true")
    at.button_group(key="lesson").set_value("Clipping").run()
    assert checked(at).button_group(key="lesson").value == "Clipping" and not at.toggle(key="answer").value
    assert len(specs(at)) == 1, "the figure of the question alone"


def test_a_look_at_the_answer_is_no_guess_and_the_first_guess_counts():
    at = opened("lessons", answer="true")
    at.radio(key="guess-Grid").set_value(at.radio(key="guess-Grid").options[0]).run()
    assert "answered in this session" not in words(at)
    at = opened("lessons")
    for option in at.radio(key="guess-Grid").options:
        at.radio(key="guess-Grid").set_value(option).run()
    assert "1 lesson of 8 answered in this session, 0 right at the first try" in words(at)


def test_sidebar_changes_the_numbers():
    at = opened("lessons", answer="true")
    before = seen(at)
    at.slider(key="b").set_value(0).run()
    assert seen(checked(at)) != before
    before = seen(at)
    at.selectbox(key="s").set_value("down_in").run()
    assert seen(checked(at)) != before
