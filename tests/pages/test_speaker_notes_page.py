"""Speaker notes: every lesson with its formulas, notes and a link that opens it as the speaker has it."""

from urllib.parse import parse_qs, urlsplit

from streamlit.testing.v1 import AppTest
from test_explore import APP, checked, opened, words

from rotviz.home import home
from rotviz.lessons import LESSONS


def links(at):
    """The queries of the links to lessons, by lesson."""
    found = [m.value.split('href="')[1].split('"')[0].replace("&amp;", "&") for m in at.markdown if 'href="lessons?' in m.value]
    queries = [{key: values[0] for key, values in parse_qs(urlsplit(link).query).items()} for link in found]
    return {query["lesson"]: query for query in queries}


def test_every_lesson_is_there_with_its_mathematics():
    at = checked(AppTest.from_file(str(APP), default_timeout=60).switch_page("pages/speaker_notes.py").run())
    assert len(at.latex) == sum(len(lesson.formulas) for lesson in LESSONS.values()) and len(at.subheader) == len(LESSONS)
    assert all(lesson.notes in words(at) and lesson.idea in words(at) for lesson in LESSONS.values())
    assert set(links(at)) == set(LESSONS) and links(at)["Grid"]["b"] == "14" and links(at)["Grid"]["m"] == "smollm2-135m"


def test_links_carry_what_was_chosen_and_open_the_lesson():
    at = opened("lessons", b="0", s="down_in")
    at = checked(at.switch_page("pages/speaker_notes.py").run())
    query = links(at)["Massive tokens"]
    assert (query["m"], query["n"], query["b"], query["s"]) == ("tiny-llama", "32", "0", "down_in")
    assert query["bos"] == "true"
    lesson = opened("lessons", **query)
    assert LESSONS["Massive tokens"].title in words(lesson) and "down projection input of block 0" in words(lesson).lower()
    assert lesson.slider(key="b").value == 0 and not lesson.toggle(key="answer").value


def test_links_carry_an_own_prompt_and_an_uploaded_text():
    at = opened("lessons", t="prompt", prompt="Two words & more.", bos="false")
    query = links(checked(at.switch_page("pages/speaker_notes.py").run()))["Grid"]
    assert (query["t"], query["prompt"], query["bos"]) == ("prompt", "Two words & more.", "false")
    assert opened("lessons", **query).toggle(key="bos").value is False
    text = home() / "texts" / "abcd.txt"
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text("A text of one's own, long enough to be read. " * 8, encoding="utf-8")
    at = opened("lessons", t="file", file="abcd")
    query = links(checked(at.switch_page("pages/speaker_notes.py").run()))["Grid"]
    assert (query["t"], query["file"]) == ("file", "abcd") and "prompt" not in query
