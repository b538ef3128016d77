"""The profilers' table of operations: as LiteRT 2.3 and benchmark_model print it, and damaged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtools.core.errors import QtoolsError
from qtools.core.op_table import kernel_times

LITERT = """\
INFO: anything
===================================================================== Run Order ======================================
                                                 [node type]    [start]    [first]   [avg ms]        [%]     [cdf%]   [mem KB] [times called]   [Name]
                     Delegate/Convolution (NHWC, QU8) IGEMM      0.000      0.140      0.125    19.570%    19.570%      0.000             20   [Delegate]:0
                     Delegate/Fully Connected (NC, QU8) GEMM      0.000      0.037      0.035     5.389%    36.306%      0.000             40   [Delegate]:2
                                                     SOFTMAX      0.021      0.005      0.004     0.554%   100.000%      0.000             20   [Builtin]:30

============================================================== Top by Computation Time ===============================
                                                 [node type]    [start]    [first]   [avg ms]        [%]     [cdf%]   [mem KB] [times called]   [Name]
                      Delegate/Convolution (NHWC, QU8) IGEMM      0.000      0.140      0.125    19.570%    19.570%      0.000             20   [Delegate]:0

Number of nodes executed: 3
"""  # noqa: E501 - as printed
HEAD = "\t[node type]\t[first]\t[avg ms]\t[%]\t[cdf%]\t[mem KB]\t[times called]\t[Name]"
ANDROID = f"""\
Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
{HEAD}
\tModifyGraphWithDelegate\t9.000\t9.000\t60%\t60%\t4000.000\t1\tModifyGraphWithDelegate/0
\tAllocateTensors\t6.000\t3.000\t40%\t100%\t0.000\t2\tAllocateTensors/0

Delegate internal:
============================== Run Order ==============================
{HEAD}
\tConvolution (NHWC, F32) IGEMM\t7.000\t7.000\t100%\t100%\t0.000\t1\tDelegate/Convolution:0

Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
{HEAD}
\tTfLiteXNNPackDelegate\t4.100\t4.000\t80.0%\t80.0%\t0.000\t1\t[logits]:65
\tGELU\t0.500\t0.500\t20.0%\t100.0%\t0.000\t2\t[a, b]:12

Number of nodes executed: 3
"""
INTERNAL = f"""\
Delegate internal:
============================== Run Order ==============================
{HEAD}
\tConvolution (NHWC, F32) IGEMM\t3.000\t3.000\t75%\t75%\t0.000\t1\tDelegate/Convolution:0
\tAdd (ND)\t0.450\t0.450\t25%\t100%\t0.000\t2\tDelegate/Add:1

"""


def rows(text: str, runs: int) -> list[tuple[str, float, float, bool | None]]:
    return [(k.kind, round(k.count, 6), round(k.ms, 6), k.fast) for k in kernel_times(text, runs)]


def test_litert_sums_over_the_runs_and_marks_what_the_delegate_runs() -> None:
    assert rows(LITERT, 20) == [
        ("Convolution (NHWC, QU8) IGEMM", 1.0, 0.125, True),
        ("Fully Connected (NC, QU8) GEMM", 2.0, 0.07, True),
        ("SOFTMAX", 1.0, 0.004, False),
    ]


def test_a_delegate_node_counts_whole_where_nothing_says_what_is_inside() -> None:
    assert rows(ANDROID, 1) == [("TfLiteXNNPackDelegate", 1.0, 4.0, True), ("GELU", 2.0, 1.0, False)]


def test_what_is_inside_takes_the_delegate_nodes_place() -> None:
    assert rows(ANDROID + INTERNAL, 1) == [
        ("Convolution (NHWC, F32) IGEMM", 1.0, 3.0, True),
        ("GELU", 2.0, 1.0, False),
        ("Add (ND)", 2.0, 0.9, True),
    ]


def test_no_table_is_no_profile() -> None:
    assert kernel_times("", 1) == kernel_times("INFO: nothing\n" * 9, 1) == ()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (("[node type]", "[node kind]"), "no line of column names"),
        (("[avg ms]", "[average]"), "no line of column names"),
        (("4.000\t80.0%", "4.0.0\t80.0%"), "no line of a table"),
        (("\t4.000\t80.0%\t80.0%\t0.000\t1", ""), "no line of a table"),
        (("4.000\t80.0%", "1e300\t80.0%"), "no line of a table"),
        (("4.000\t80.0%", "-4.000\t80.0%"), "no line of a table"),
    ],
)
def test_damage_is_named(damage: tuple[str, str], said: str) -> None:
    assert damage[0] in ANDROID
    with pytest.raises(QtoolsError, match=said):
        kernel_times(ANDROID.replace(*damage), 1)


@given(
    st.sampled_from([LITERT, ANDROID + INTERNAL]),
    st.lists(st.tuples(st.integers(0, 3000), st.text("\t\n []%.e-9x=", max_size=4)), max_size=8),
)
def test_any_damage_is_an_error_of_ours_or_a_profile(text: str, changes: list[tuple[int, str]]) -> None:
    for place, letters in changes:
        text = text[:place] + letters + text[place + 1 :]
    try:
        found = kernel_times(text, 3)
    except QtoolsError:
        return
    assert all(kernel.ms >= 0 and kernel.count >= 0 for kernel in found)
