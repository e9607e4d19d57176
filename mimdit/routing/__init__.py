"""Routing: features of the gates, their decisions, the losses that keep experts in use, and utilization statistics."""

from mimdit.routing.balance import RoutingBalance
from mimdit.routing.router import PrototypeRouter, Router, RouterOptions, router_features
from mimdit.routing.routing import Gates, Routing

__all__ = ["Gates", "PrototypeRouter", "Router", "RouterOptions", "Routing", "RoutingBalance", "router_features"]
