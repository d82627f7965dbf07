"""How many operations of matrix products a JAX function does, for the arguments that it is given.

XLA counts each loop's body once. Here the traced program is run operation by operation, traced and
compiled like any other, with a count beside it: a loop's body counts as often as it is gone round.
"""

import math

import jax
import jax.numpy as jnp
from jax.extend.core import Literal


def operations_of(equation):
    """Of a matrix product: multiplications and additions."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    lengths = [equation.invars[0].aval.shape[axis] for axis in contracted]
    return math.prod(equation.outvars[0].aval.shape) * (2 * math.prod(lengths) if lengths else 1)


def counted_loop(params, given):
    """Results of a while-loop, and the operations of its body."""
    conditions, bodies = params["cond_nconsts"], params["body_nconsts"]
    first = conditions + bodies

    def goes_on(state):
        return counted(params["cond_jaxpr"], [*given[:conditions], *state[0]])[0][0]

    def body(state):
        found, more = counted(params["body_jaxpr"], [*given[conditions:first], *state[0]])
        return found, state[1] + more

    return jax.lax.while_loop(goes_on, body, (given[first:], jnp.asarray(0)))


def counted_scan(params, given):
    """Results of a loop of fixed length, and the operations of its body."""
    fixed = params["num_consts"]
    first = fixed + params["num_carry"]

    def body(state, each):
        found, more = counted(params["jaxpr"], [*given[:fixed], *state[0], *each])
        return (found[: first - fixed], state[1] + more), found[first - fixed :]

    state = given[fixed:first], jnp.asarray(0)
    (carried, count), stacked = jax.lax.scan(
        body, state, given[first:], params["length"], params["reverse"]
    )
    return [*carried, *stacked], count


def counted_equation(equation, given):
    """Results of one operation of a traced program, and the operations of products in it."""
    primitive, params = equation.primitive, equation.params
    if primitive.name == "while":
        return counted_loop(params, given)
    if primitive.name == "scan":
        return counted_scan(params, given)
    if primitive.name == "cond":
        branches = [lambda *a, b=branch: counted(b, a) for branch in params["branches"]]
        return jax.lax.switch(given[0], branches, *given[1:])
    for name in ("jaxpr", "call_jaxpr", "call"):
        if name in params:
            return counted(params[name], given)
    found = primitive.bind(*given, **params)
    count = operations_of(equation) if primitive.name == "dot_general" else 0
    return found if primitive.multiple_results else [found], count


def counted(program, given):
    """A traced program's results, and the operations of the matrix products that it does."""
    jaxpr = program.jaxpr
    values = dict(zip(jaxpr.constvars + jaxpr.invars, [*program.consts, *given], strict=True))

    def value(atom):
        return jnp.asarray(atom.val, atom.aval.dtype) if isinstance(atom, Literal) else values[atom]

    total = jnp.asarray(0)
    for equation in jaxpr.eqns:
        found, count = counted_equation(equation, [value(atom) for atom in equation.invars])
        total += count
        values.update(zip(equation.outvars, found, strict=True))
    return [value(atom) for atom in jaxpr.outvars], total
