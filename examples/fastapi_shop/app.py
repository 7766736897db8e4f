"""A shop with FastAPI and SQLAlchemy: an order's row and its event are one commit, and so are the stock that is taken
for it and "this order is done".

    uvicorn examples.fastapi_shop.app:app
    curl -X POST localhost:8000/orders -H 'content-type: application/json' -d '{"sku": "teapot", "units": 2}'
    curl localhost:8000/stock/teapot
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, PositiveInt
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from eventspine import Delivery, Event, Service
from eventspine.integrations.asgi import Correlation
from eventspine.integrations.fastapi import Events, SpineDep
from eventspine.integrations.sqlalchemy import begin_immediate, refuse_dual_writes

DATABASE = os.environ.get("SHOP_DATABASE", "shop.db")

engine = create_async_engine(f"sqlite+aiosqlite:///{DATABASE}")
begin_immediate(engine)  # what a transaction has read still holds when it writes
sessions = async_sessionmaker(engine, expire_on_commit=False)  # an order may be looked at after its commit
refuse_dual_writes(sessions)  # a forgotten within= is an error


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
    taken: Mapped[int]


# --- what happens, and who reacts ----------------------------------------------------------------------------------------


class OrderPlaced(Event, context="orders", key="sku"):
    order_id: int
    sku: str
    units: int


storefront: Service[Any] = Service("storefront", publishes="orders")
inventory = Service("inventory")


@inventory.on(OrderPlaced)
async def reserve(order: OrderPlaced, delivery: Delivery) -> None:
    async with sessions() as session:
        taken = update(Stock).where(Stock.sku == order.sku).values(taken=Stock.taken + order.units)
        if (await session.execute(taken)).rowcount == 0:
            session.add(Stock(sku=order.sku, taken=order.units))
        await delivery.join(session)  # with the same commit, this order is done
        await session.commit()


# --- the application -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def tables() -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


async def session_of_request() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(session_of_request)]


class NewOrder(BaseModel):
    sku: str
    units: PositiveInt


events = Events(f"sqlite:///{DATABASE}", service=storefront, run=[inventory])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
    """Tables first, then the spine, whose handlers use them."""
    async with tables(), events.lifespan(app) as state:
        yield state


app = FastAPI(lifespan=lifespan)
app.add_middleware(Correlation)
app.add_api_route("/health", events.health)


@app.post("/orders", status_code=201)
async def place(new: NewOrder, session: SessionDep, spine: SpineDep) -> dict[str, int]:
    order = Order(sku=new.sku, units=new.units)
    session.add(order)
    await session.flush()  # gives the order its id
    await spine.publish(OrderPlaced(order_id=order.id, sku=order.sku, units=order.units), within=session)
    await session.commit()
    return {"id": order.id}


@app.get("/orders")
async def count(session: SessionDep) -> dict[str, int]:
    return {"orders": await session.scalar(select(func.count()).select_from(Order)) or 0}


@app.get("/stock/{sku}")
async def stock(sku: str, session: SessionDep) -> dict[str, int]:
    found = await session.get(Stock, sku)
    if found is None:
        raise HTTPException(404, f"nobody has ordered a {sku} yet")
    return {"taken": found.taken}
