"""Model FLOPs of a step: those that the mathematics needs, whatever is frozen and whatever the program does besides.

For each product of the forward pass, as in 6ND (Kaplan et al. 2020, arXiv:2001.08361; Chowdhery et al. 2022, PaLM,
arXiv:2204.02311, appendix B) and, where weights are frozen, without their gradients:

    forward                                                          its FLOPs
    gradient of what goes in, from the first trained weight on       its FLOPs again
    gradient of the weight, if that is trained                       its FLOPs again

The gradient of what goes into the very first trained product is counted, as 6ND counts it, though nobody needs it.
A product without a weight (attention) has the gradients of both of its factors. What rematerialisation calculates again
counts once, and what is masked in attention counts.
"""

from collections.abc import Callable, Sequence

from trialfleet.training.workload import Product


def of_training(products: Sequence[Product], trained: Callable[[str], bool]) -> float:
    """FLOPs of forward and backward pass over one example.

    Args:
        products: of the forward pass, in its order.
        trained: whether the parameter with a path is trained now.
    """
    total, reached = 0.0, not any(product.weight for product in products)
    for product in products:
        own = bool(product.weight) and trained(product.weight)
        reached = reached or own
        total += product.flops * (1 + reached + (own if product.weight else reached))
    return total
