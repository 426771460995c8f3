"""Short stories to tell, each 20 to 30 seconds long when spoken."""

STORIES: tuple[str, ...] = (
    "Once there was a lighthouse keeper who was afraid of the dark. Every evening she lit the "
    "great lamp, and every evening she told herself that it was for the ships. One night the "
    "lamp went out, and far away a small boat began to ring its bell. So she walked down to the "
    "shore with a candle, and stood there until morning. The sailors said they had never seen a "
    "brighter light. After that, she was still afraid of the dark, but she was no longer alone "
    "in it.",
    "A young fox found a clock in the forest. It ticked, and he thought it was a heart, so he "
    "carried it home and kept it warm. In the spring the clock stopped. The fox was very sad, "
    "and he asked the old owl for help. The owl turned a little key, and the clock ticked "
    "again. What was wrong with it, asked the fox. Nothing, said the owl. Some hearts only "
    "want to be wound up by a friend.",
    "There was a baker who sold bread to everyone in town, except on Mondays. On Mondays he "
    "closed the shop and climbed the hill with one warm loaf. People wondered about it, and one "
    "day a boy followed him. At the top of the hill sat a hundred birds, waiting. I was hungry "
    "once, the baker said, and they showed me where the berries grew. The boy said nothing, "
    "but the next Monday, there were two loaves on the hill.",
    "A teacher asked her class to draw the quietest thing in the world. One child drew snow. "
    "Another drew a fish asleep. The smallest girl handed in an empty page. Did you not find "
    "anything, asked the teacher. I did, said the girl, but when I reached for my pencil, it "
    "made a noise. The teacher hung the empty page on the wall, and for the rest of the day "
    "everyone spoke a little more softly.",
)
