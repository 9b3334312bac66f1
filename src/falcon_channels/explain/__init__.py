"""Explains whether a user received a publication; see docs/explain.md.

The modules, in the order of their imports: each one imports only modules named before
it.

A node records facts:

* `facts`: what nodes record and send to each other.
* `record_queue`: one limit for all records, and the oldest are forgotten.
* `connection_records`: connections and refused requests.
* `subscription_record`: one subscription.
* `batch_times`: when the batches of a channel were written.
* `channel_records`: observes the deliveries of each channel.
* `fact_finder`: finds the facts that answer a question.
* `recorder`: decides what is recorded.

The node that was asked decides from the facts of all nodes:

* `verdicts`: the public values.
* `findings`: the publication in question, one result, and shared words.
* `subscription_findings`: the result for one subscription.
* `connection_findings`: the result for one connection.
* `explanations`: the answers for a user.
* `explainer`: asks all nodes.
"""
