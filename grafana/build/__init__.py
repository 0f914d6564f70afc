"""Makes the dashboards in ``grafana/dashboards``: ``python -m grafana.build``.

- ``promql`` is text: selectors, and the expressions that several dashboards share.
- ``parts`` says how a panel looks, ``controls`` how a variable, a mark or a link does.
- ``common`` has what several dashboards have.
- ``fleet``, ``run``, ``episodes``, ``monty`` and ``exporter`` are a dashboard each.

Nothing here reads a clock, an environment or a network: the same code makes the same
files, and a test compares them with those that are committed. What is made is Grafana's
classic JSON, since newer formats cannot be provisioned from files everywhere.
"""
