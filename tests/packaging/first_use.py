"""What a new user types first, as one file."""

import asyncio

from eventspine import Delivery, Event, Service, Spine


class OrderPlaced(Event, context="orders", key="order_id"):
    order_id: str


desk = Service("desk")
storefront = Service("storefront", publishes="orders")
handled = asyncio.Event()


@desk.on(OrderPlaced)
async def note(event: OrderPlaced, delivery: Delivery) -> None:
    print(f"handled {event.order_id} at attempt {delivery.attempt}")
    handled.set()


async def main() -> None:
    async with Spine("sqlite:///first.db", service=storefront) as spine, spine.running(desk):
        await spine.publish(OrderPlaced(order_id="order-1"))
        async with asyncio.timeout(30):
            await handled.wait()


asyncio.run(main())
