"""Groups the subscriptions with delta of a local channel by the base of their clients.

A client can apply a delta only to its *base*: the payload that it received last. Only
this process writes to the client, so only this process knows the base. The broker and
other processes do not need it.

* LIVE subscriptions whose base is the channel's `DeltaGroups.base` are *in step*. All
  of them get the same deltas, so that each delta is encoded once.
* All other LIVE subscriptions are *out of step*. They get the next publication whole,
  and are then in step.
* AHEAD and LAGGING subscriptions get their items one by one. Their base is stored until
  they are LIVE again.

The channel stores `DeltaGroups.base` only while it has a subscription with delta.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence

from falcon_channels.hub.connection import Subscription
from falcon_channels.hub.groups import add_to_group
from falcon_channels.hub.groups import Groups
from falcon_channels.hub.groups import remove_from_group
from falcon_channels.protocol.deltas import last_publication
from falcon_channels.protocol.deltas import with_deltas
from falcon_channels.protocol.deltas import with_first_whole
from falcon_channels.publication import Publication
from falcon_channels.transports.encoders import Item


class DeltaGroups:
    """Subscriptions with delta; see the module's docstring.

    Attributes:
        base: Last publication that was delivered, or ``None`` for none yet.
        num_members: Number of subscriptions with delta that have joined and not ended.
        in_step: LIVE subscriptions whose clients have `base`.
        out_of_step: All other LIVE subscriptions.
    """

    __slots__ = ('_bases', 'base', 'in_step', 'num_members', 'out_of_step')

    def __init__(self) -> None:
        self.base: Publication | None = None
        self.num_members = 0
        self.in_step: Groups = {}
        self.out_of_step: Groups = {}
        #: Bases of AHEAD and LAGGING subscriptions, if they are known.
        self._bases: dict[Subscription, Publication] = {}

    def add_member(self) -> None:
        """Count a subscription that has joined."""
        self.num_members += 1

    def remove_member(self, subscription: Subscription) -> None:
        """Count a subscription that has ended, and forget its base."""
        self.num_members -= 1
        self._bases.pop(subscription, None)

    def enter(self, subscription: Subscription) -> None:
        """Add a subscription that has become LIVE."""
        base = self._bases.pop(subscription, None)
        add_to_group(
            self.in_step if self._is_base(base) else self.out_of_step, subscription
        )

    def leave(self, subscription: Subscription) -> None:
        """Remove a subscription that is no longer LIVE."""
        if self._is_in_step(subscription):
            remove_from_group(self.in_step, subscription)
            if self.base is not None:
                self._bases[subscription] = self.base
        else:
            remove_from_group(self.out_of_step, subscription)

    def set_base(
        self, subscription: Subscription, publication: Publication | None
    ) -> None:
        """Store the publication that a client received last.

        Args:
            subscription: An AHEAD or LAGGING subscription, or one that has just become
                LIVE.
            publication: The publication, or ``None`` if the client has missed some.
        """
        if publication is None:
            self._bases.pop(subscription, None)
            return
        self._bases[subscription] = publication
        if subscription in self.out_of_step.get(subscription.encoder, ()):
            if self.base is None:
                # NOTE: without a base, no subscription is in step. Any publication can
                #   therefore become the base of the next deltas.
                self.base = publication
            remove_from_group(self.out_of_step, subscription)
            self.enter(subscription)

    def batches(self, items: Sequence[Item]) -> Iterator[tuple[Groups, list[Item]]]:
        """Yield groups and the items for each; call `move_on` after the delivery."""
        following: list[Item] = [*with_deltas(items, self.base)]
        if self.in_step:
            yield self.in_step, following
        if self.out_of_step:
            yield self.out_of_step, with_first_whole(following)

    def move_on(self, items: Sequence[Item]) -> None:
        """Called after the items were delivered to all LIVE subscriptions."""
        last = last_publication(items)
        if last is None:
            return
        self.base = last
        if not self.in_step:
            self.in_step, self.out_of_step = self.out_of_step, {}
            return
        for encoder, group in self.out_of_step.items():
            self.in_step.setdefault(encoder, {}).update(group)
        self.out_of_step = {}

    def _is_base(self, publication: Publication | None) -> bool:
        base = self.base
        return (
            base is not None
            and publication is not None
            and (publication is base or publication.data == base.data)
        )

    def _is_in_step(self, subscription: Subscription) -> bool:
        return subscription in self.in_step.get(subscription.encoder, ())
