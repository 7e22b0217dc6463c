"""The page holds table, notes, diagrams, refits and plan, and nothing in it is taken for markup."""

from __future__ import annotations

import html

from parallelize.conversion.page import page
from parallelize.conversion.result import DataUsed
from tests.parallelize.conversion.small_result import HEALING, result


def test_the_page_holds_everything() -> None:
    made = result(warnings=("Take <care>.",))
    text = page(made, "<svg>before</svg>", "<svg>after</svg>")
    assert "<svg>before</svg> <svg>after</svg>" in text
    assert '<p class="warning">Take &lt;care&gt;.</p>' in text
    assert "<p>Backend onnxruntime: it was asked for.</p>" in text
    assert "<td>rewrite, as is</td><td>2</td><td>12.3k</td>" in text
    assert "<td>layers 1</td><td>full</td><td>0.001</td><td>5.00e-01</td><td>2.50e-01</td>" in text
    assert "<td>processor</td><td>a &lt;processor&gt;</td>" in text
    assert "<td>searched and judged on</td><td>cuda, a &lt;gpu&gt;</td>" in text
    assert html.escape(made.plan.to_json()) in text


def test_it_says_on_how_many_samples_it_was_judged() -> None:
    assert "Judged on 20 samples; refits were fitted on 60 and chosen on 20 others." in page(result(), "", "")
    assert "so was the healing of 40 steps" in page(result(healing=HEALING), "", "")
    random = result(data=DataUsed(random=True, fit=60, held_out=20, judge=20, batch=1))
    assert "Run on 20 random samples, which say nothing about accuracy." in page(random, "", "")
