"""What linears share is made once, and is gone with the tensor that it was made of."""

import copy
import sys
import threading
import weakref

import torch

from rotviz.deployment.linear import LinearInput
from rotviz.models.shared_input import OfLatest
from rotviz.surgery.online import InputQuantizer
from rotviz.types import QuantSpec, Site


def test_it_is_made_once_for_each_tensor_and_not_for_equal_ones():
    made, latest = [], OfLatest()

    def make(x):
        made.append(x)
        return x + 1

    x, y = torch.ones(2), torch.ones(2)
    assert latest.of(x, make) is latest.of(x, make) and len(made) == 1
    assert latest.of(y, make) is latest.of(y, make) and len(made) == 2
    for number, copied in enumerate((copy.deepcopy(latest), copy.copy(latest)), 3):
        assert torch.equal(copied.of(y, make), y + 1) and len(made) == number, "a copy begins anew"


def test_threads_get_what_was_made_of_their_own_tensor():
    latest, wrong = OfLatest(), []

    def ask(x):
        for _ in range(3000):
            made = latest.of(x, lambda x: (id(x),))
            if made != (id(x),):
                wrong.append(made)

    threads, before = [threading.Thread(target=ask, args=(torch.ones(1),)) for _ in range(2)], sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not wrong


def test_it_goes_with_the_tensor():
    latest = OfLatest()
    x, other = torch.ones(2), torch.zeros(2)
    kept = weakref.ref(latest.of(x, lambda x: x + 1))
    assert kept() is not None
    del x
    assert kept() is None
    latest.of(other, lambda x: x)  # what is the tensor itself must not keep it
    gone = weakref.ref(other)
    del other
    assert gone() is None


def test_rounded_inputs_do_not_stay_in_memory():
    quantizer, source = InputQuantizer(Site.ATTN_IN, QuantSpec(4), None), LinearInput(QuantSpec(4))
    x = torch.ones(2, 8)
    kept = [weakref.ref(quantizer(None, (x,))[0]), weakref.ref(source.numbers(x)), weakref.ref(source.codes(x).data)]
    assert quantizer(None, (x,))[0] is kept[0]() and source.codes(x).data is kept[2]()
    del x
    assert [one() for one in kept] == [None] * 3
