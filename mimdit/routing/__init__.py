"""Routing: features of the gates, their decisions, the losses that keep experts in use, and utilization statistics."""

from mimdit.routing.balance import RoutingBalance
from mimdit.routing.router import Router, router_features
from mimdit.routing.routing import Gates, Routing

__all__ = ["Gates", "Router", "Routing", "RoutingBalance", "router_features"]
