"""A stranger's template writes text or is refused; it reaches nothing, and it ends."""

import time

import pytest

from tunewise.data import sandbox
from tunewise.data.sandbox import Refused, Sandboxed
from tunewise.errors import UserError

HI = {"messages": [{"role": "user", "content": "hi"}], "n": 3}
GROWS = "{{% set ns = namespace(x='{0}') %}}{{% for i in range(60) %}}{1}{{% endfor %}}".format
LONG = "a" * 64
GROWN = "more than|not done after"
NESTED = "{% for i in range(99999) %}{% for j in range(99999) %}%s{% endfor %}{% endfor %}"

ENDLESS = {
    "a long range": ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
    "loops in loops": (NESTED.replace("%s", ""), "not done after"),
    "captured text": ("{% set x %}" + NESTED.replace("%s", LONG) + "{% endset %}", "not done after|handles more than"),
    "written text": (NESTED.replace("%s", LONG), "not done after|writes more than|handles more than"),
    "macros": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
        "not done after",
    ),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "doubling by ~": (GROWS(LONG, "{% set ns.x = ns.x ~ ns.x %}"), GROWN),
    "doubling by +": (GROWS(LONG, "{% set ns.x = ns.x + ns.x %}"), GROWN),
    "doubling by blocks": (GROWS(LONG, "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"), GROWN),
    "replace": (GROWS(LONG, "{% set ns.x = ns.x.replace('a', 'aa') %}"), GROWN),
    "the filter replace": (GROWS(LONG, "{% set ns.x = ns.x | replace('a', 'aa') %}"), GROWN),
    "join": ("{{ range(99999) | map('string') | join('x' * 99999) }}", "more than"),
    "a text's join": ("{{ ('x' * 99999).join(range(99999) | map('string')) }}", "more than"),
    "a product": ("{{ 'x' * 10**9 }}", "repeats a text 1,000,000,000 times"),
    "a power": ("{{ 10**10**10 }}", "computes 10000000000 \\*\\* 10"),
    "a wide text": ("{{ 'x'.center(10**9) }}", "1,000,000,000 wide"),
    "a format": ("{{ '%1000000000d' % 1 }}", "in the format"),
    "a text's format": ("{{ '{:>1000000000}'.format(1) }}", "in the format"),
    "a format in a format": ("{{ '{:{w}}'.format(1, w=10**9) }}", "in the format"),
    "a format's star": ("{{ '%*d' % (10**9, 1) }}", "in the format"),
    "an indent": ("{{ 'x' | indent(10**9, true) }}", "more than"),
    "indented json": ("{{ messages | tojson(indent=10**8) }}", "indents by"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_does_not_end_is_ended(name, monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 0.2)
    source, why = ENDLESS[name]
    start = time.process_time()
    with pytest.raises(Refused, match=why) as error:
        Sandboxed(source, "the template").render(HI)
    assert time.process_time() - start < 3
    assert error.value.message.startswith("the template refuses the turns user: ")
    assert "data.template" in error.value.hint


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}", "{{ messages[0].update(role='x') }}", "{{ messages.clear() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ cycler.__init__.__globals__ }}",
        "{{ raise_exception.__globals__.keys() }}", "{{ strftime_now.__self__.__class__.__bases__ }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "{{ messages[0].content.nothing.more }}", "{{ 1 / 0 }}",
        "{{ messages + 'a' }}", "{{ raise_exception('not so') }}",
    ],
)  # fmt: skip
def test_what_reaches_out_is_refused_and_changes_nothing(source):
    given = {"messages": [{"role": "user", "content": "hi"}]}
    with pytest.raises(Refused, match="the template refuses the turns user"):
        Sandboxed(source, "the template").render(given)
    assert given == {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{% for %}", "line 1: "), ("a\n{{ x", "line 2: "), ("{{ x | center }}", "No filter named 'center'"),
        ("{% include 'a' %}{% nothing %}", "unknown tag 'nothing'"), ("{{ (" + "(" * 5000, "is no Jinja template"),
    ],
)  # fmt: skip
def test_what_is_no_template_is_told(source, why):
    with pytest.raises(UserError, match=why) as error:
        Sandboxed(source, "my.jinja")
    assert error.value.message.startswith("my.jinja is no Jinja template")


def test_templates_have_what_they_are_written_for():
    source = (
        "{%- for m in messages %}\n"
        "    {%- if loop.index > 1 %}{%- break %}{%- endif %}\n"
        "    {%- generation %}{{ m.content ~ n }}{% endgeneration %}\n"
        "{%- endfor %} {{ strftime_now('%d %b %Y') }} {{ {'é': '<'} | tojson }} {{ 'a-b'.split('-') | join('+') }}"
        " {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ nothing is defined }}"
        " {{ '*%s*!' % 'x' }} {{ 'ab'.replace('a', 'c') }} {{ 2 ** 3 }} {{ [1, 2][::-1] }} {{ dict(a=1) }}"
    )
    wanted = 'hi3 26 Jul 2024 {"é": "<"} a+b 1 False *x*! cb 8 [2, 1] {\'a\': 1}'
    assert Sandboxed(source, "x").render(HI).strip() == wanted


def test_text_as_long_as_a_book_is_written():
    content = "word " * 200_000
    turns = [{"role": "user", "content": content}] * 3
    source = "{% for m in messages %}{{ '<' ~ m.role ~ '>' + m.content | trim }}{% endfor %}"
    assert len(Sandboxed(source, "x").render({"messages": turns})) == 3 * len("<user>" + content.strip())
