"""Labels as text: every form, names that look like another form, and what can be read in two ways."""

import pytest

from cardiff.errors import UserError
from cardiff.pipelines import ClassConditionalPipeline
from cardiff.sampling.labels import read_labels
from cardiff.schedulers import CosineScheduler
from tests.support.tiny_classifier import tiny_classifier
from tests.support.tiny_models import tiny_pipeline, tiny_unet

ODD = ["ant", "bee", "cat, black", "C++", "2*2", 'say "hi"', "@home", "index:0", "08", " edge ", "x+y, z*w"]


def of(*names):
    return tiny_pipeline(id2label=dict(enumerate(names)))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("bee", [1]),
        ("1", [1]),
        (" 1 , ant,1", [1, 0, 1]),
        ("index:1", [1]),
        ("index:0,bee", [0, 1]),  # always the index
        ('"index:0"', [7]),
        ("cat, black", [2]),  # exact names come first, whatever is in them
        ("C++", [3]),
        ("2*2", [4]),
        ('say "hi"', [5]),
        ("@home", [6]),
        ("08", [8]),
        (" edge ", [9]),
        ("x+y, z*w", [10]),
        ("C++,2*2,08", [3, 4, 8]),
        ('"cat, black",bee', [2, 1]),
        ('bee,"say ""hi""","@home"," edge "', [1, 5, 6, 9]),
        ("0.25*ant+0.75*1", [{0: 0.25, 1: 0.75}]),
        ('0.5*"cat, black"+0.5*bee', [{2: 0.5, 1: 0.5}]),
        ('0.5*"C++"+0.25*"2*2"+0.25*"x+y, z*w",ant', [{3: 0.5, 4: 0.25, 10: 0.25}, 0]),
        ("0.5*index:2 + 0.5 * bee", [{2: 0.5, 1: 0.5}]),
        ("0.5*bee+0.5*1", [{1: 1.0}]),
        ("1*bee", [{1: 1.0}]),
    ],
)
def test_every_form(text, labels):
    assert read_labels(text, of(*ODD)) == labels


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("dog", "Class label 'dog' is not a class of this model"),
        ("Bee", "did you mean 'bee'?"),
        ("99", "Class label 99 is out of range"),
        ("01", "Class label '01' is not a class"),  # no canonical number, and no name
        ("-1", "Class label '-1' is not a class"),
        ("²", "Class label '²' is not a class"),
        ("", "Class label '' is not a class"),
        ("ant,,bee", "Class label '' is not a class"),
        ("index:01", "The label 'index:01' is not an index such as index:3"),
        ("index:bee", "The label 'index:bee' is not an index such as index:3"),
        ("index:99", "Class label 99 is out of range"),
        ('"1"', "Class label '1' is not a class"),
        ('"ant', "has an unclosed double quote"),
        ('ant,say "hi', "has an unclosed double quote"),
        ("0.5*ant+bee", "is not a mixture such as 0.5*three+0.5*eight"),
        ("0.5*C+++0.5*ant", "Class label 'C' is not a class"),
        ("half*ant+0.5*bee", "is not a mixture such as"),
        ("0.5*ant+0.6*bee", "must not be negative and must add up to 1"),
        ("1.5*ant+-0.5*bee", "must not be negative and must add up to 1"),
        ("nan*ant", "must not be negative and must add up to 1"),
        ("0.5*ant+0.5*dog", "Class label 'dog' is not a class"),
        ("@nowhere.txt", "--labels @nowhere.txt cannot be read"),
    ],
)
def test_refused(text, sentence):
    with pytest.raises(UserError) as error:
        read_labels(text, of(*ODD))
    assert sentence in str(error.value)


def test_names_with_leading_zeros_are_names():
    pipeline = of("001", "002", "010")
    assert read_labels("001", pipeline) == [0] and read_labels("010,002", pipeline) == [2, 1]
    assert read_labels("1", pipeline) == [1] and read_labels("0.5*001+0.5*1", pipeline) == [{0: 0.5, 1: 0.5}]


@pytest.mark.parametrize("text", ["1", "bee,1", "0.5*1+0.5*bee"])
def test_a_name_that_is_the_index_of_another_class_is_refused(text):
    pipeline = of("1", "0", "bee")
    sentence = "'1' is the name of one class and the index of another, '0': write \"1\" in double quotes .* or index:1"
    with pytest.raises(UserError, match=sentence):
        read_labels(text, pipeline)
    assert read_labels(text.replace("1", '"1"'), pipeline) != read_labels(text.replace("1", "index:1"), pipeline)


def test_a_name_that_is_its_own_index_or_nobodys():
    """As of the digits 0 to 9, and of years."""
    assert read_labels("0,2,1999", of("0", "1", "2", "1999")) == [0, 2, 3]


def test_a_name_of_two_classes_needs_the_index():
    pipeline = of("ant", "bee", "ant")
    for text in ("ant", '"ant"', "0.5*ant+0.5*bee"):
        with pytest.raises(UserError, match=r"'ant' is the name of the classes \[0, 2\]: give an index"):
            read_labels(text, pipeline)
    assert read_labels("index:2,0", pipeline) == [2, 0]


def test_a_file_of_labels(tmp_path):
    """Commas do not part what is on a line."""
    file = tmp_path / "labels, of mine.txt"
    file.write_text('\ufeffcat, black\n\n  ant \r\n0.5*"cat, black"+0.5*bee\nindex:1\n edge \nsay "hi"\n', "utf-8")
    assert read_labels(f"@{file}", of(*ODD)) == [2, 0, {2: 0.5, 1: 0.5}, 1, 9, 5]
    file.write_text("ant\nant,bee\n")
    with pytest.raises(UserError, match=r"labels, of mine.txt, line 2: Class label 'ant,bee' is not a class"):
        read_labels(f"@{file}", of(*ODD))
    for content in (b"\n \n", b""):
        file.write_bytes(content)
        with pytest.raises(UserError, match="contains no labels: write one on each line"):
            read_labels(f"@{file}", of(*ODD))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        read_labels(f"@{file}", of(*ODD))


def test_the_classes_of_a_classifier():
    """Where the model itself has none."""
    pipeline = ClassConditionalPipeline(tiny_unet(None), CosineScheduler())
    assert read_labels('bee,0,"cat, black"', pipeline, tiny_classifier()) == [1, 0, 2]
