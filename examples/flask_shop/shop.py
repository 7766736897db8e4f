"""What the web application and the service share: tables of SQLAlchemy's, and the fact that one tells the other."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from eventspine import Event

DATABASE = Path(os.environ.get("SHOP_DATABASE", "shop.db")).resolve()

engine = create_engine(f"sqlite:///{DATABASE}", connect_args={"timeout": 30})
sessions = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "shop_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    sku: Mapped[str]
    units: Mapped[int]


class Stock(Base):
    __tablename__ = "inventory_stock"
    sku: Mapped[str] = mapped_column(primary_key=True)
    taken: Mapped[int] = mapped_column(default=0)


class OrderPlaced(Event, context="orders", key="sku"):
    order_id: int
    sku: str
    units: int
