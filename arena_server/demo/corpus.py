"""What the demo models have to say: three voices, each a list of short replies, one reply a line.

The sentences share many words and turns of phrase on purpose: a model that looks two tokens back can
leave one sentence for another wherever they cross, so few shared words would mean mere quotation.
"""

from __future__ import annotations

LIBRARIAN = """\
Good morning, and welcome to the reading room. Take your time, for the books are in no hurry.
Let me look on the shelf by the window. A good book waits quietly until you are ready for it.
That is a fine question. The answer is on the second floor, next to the old maps.
I have kept this library for thirty years. In all that time, no question has been too small.
Please speak softly, for the reader by the lamp is near the end of a chapter. It is a good chapter.
Every book has its own place, and every reader finds it in time. I only hold the lamp.
You may borrow the book for three weeks. If you love it, you may keep it a little longer.
There is a small book about that. It is thin, but it is wise, and it smells of rain.
I would begin with a story. A story opens the door, and the facts come in behind it.
Have you looked in the card catalogue? It is slow, but it has never told me a lie.
The quiet corner by the window is free. Sit down, and I will bring you something to read.
Some questions need a dictionary, and some need a cup of tea. I think this one needs both.
A library is a house with a thousand doors. Every book is a door, and you hold the key.
The old maps are kept in the long drawer. Open it slowly, and the whole world comes out.
When I was young, I read every night by the lamp. I still do, but the print is smaller now.
Do not worry about the fine. A late book has only been loved a little longer.
I remember a reader who asked me the same thing. We found the answer in a book about bees.
The poems are on the third floor, where the light is best. Read one slowly, and then read it again.
If the answer is not in this book, it is in the next one. That is why we have so many shelves.
Patience is the first rule of the library. The second rule is to put the book back in its place.
I think the answer is simple, but the simple answers are kept on the top shelf. Let me find the ladder.
Read the first page, and then decide. A good first page is like a hand held out in the dark.
History is on the left, and stories are on the right. The truth is often somewhere in between.
There is no wrong way to read a book. You may begin at the end, if you promise not to tell.
The clock above the door is slow, and we like it that way. There is always time for one more page.
I have a book for rainy days, and I have a book for long nights. Which one would you like?
Your question is older than this library. Someone asked it once in the margin of a book of poems.
We keep the quiet here as other houses keep the fire. Please help me to keep it.
A question is a kind of map. Follow it slowly, and it will bring you to the right shelf.
The best answer I know is in a letter, kept between two pages. Someone left it there long ago.
Look in the index first. The index is a good friend, and it never keeps you waiting.
I do not know, but I know where to look. That is the whole of my work, and I love it.
Every reader is a guest here, and every guest may ask. Please ask me again if I am not clear.
Let me tell you what the old books say. They say that every answer begins with a good question.
If you are in a hurry, read a poem. If you have time, read the whole shelf.
The reading room is quiet at night, but the books are not. They talk softly about their readers.
I would look under history, and then under stories. The best books are kept in between.
You will find the answer when you have stopped looking for it. Until then, have a cup of tea.
There is a letter in the long drawer for someone like you. It says to take your time.
A dictionary is a quiet house where every word has a room. I go there when I cannot sleep.
When you are ready, I will bring the ladder. The top shelf is where I keep the best stories.
That book is not here at the moment. A child has it, and the child is near the end.
I keep a list of questions that no book has answered. Yours may be the first one on the next page.
Some books are a door, and some books are a window. This one is a long walk in the rain.
The second page is better than the first. Read it by the window, where the light is best.
Please take a bookmark from the drawer. A reader without a bookmark is lost by the third chapter.
We have a rule about tea in the reading room. The rule is that you bring a cup for me.
To find a good answer, begin with a small question. To find a good book, ask a child.
The truth is kept on the second floor, next to the poems. Few readers climb so far.
I have read that book more than once. The end is not what you think, and that is the joy of it.
Every night I put the books back in their place. Every morning they are ready to begin again.
You are in the right room. Look on the left, under the window, and take the thin book.
Once, a man came in out of the rain and asked for a book about nothing. We had two.
The world is large, but it is well indexed. Let me look it up for you.
It is never too late to begin a long book. I know a reader who began at ninety.
Follow me, and please mind the ladder. The old stories are behind the clock.
A good story is never in a hurry. It waits on the shelf until the right reader comes in.
I like your question, and I will write it on a card. Then it will have its own place in the drawer.
Here is a book that may help. Read the third chapter slowly, and tell me what you think.
Time is the one thing that we cannot lend. Books are the next best thing.
"""

CAPTAIN = """\
Ahoy there, and welcome aboard! The wind is fair, and the tide is with us.
Hold fast to the rail, sailor. There is a storm coming out of the west, and she is a big one.
I have sailed every sea on the chart. Never have I seen a wave that could not be climbed.
Hoist the main sail and bring her about! We will be home before the moon is up.
The sea does not care for your plans. She cares for a sound hull and a steady hand.
Aye, that is a fine question. I asked the same of the wind, and the wind blew my hat away.
Keep your eye on the north star. She has brought me home from every storm.
Trust the compass, sailor, but keep one eye on the rocks. The rocks do not read the chart.
When the fog comes down, ring the bell. When the fog lifts, count the crew.
I lost my best hat off the cape in a storm. Some whale is wearing it still.
Drop the anchor and let her rest. There is no harbour like the one you reach at night.
Steady as she goes! The rocks are on the left and the whale is on the right.
My old ship had three masts and one cat. The cat gave the orders, and we were glad of it.
The tide waits for no man, and the cook waits for no tide. Be quick, or there will be no soup.
Aye, I could tell you the answer. But you would learn more by sailing to it.
A good crew is worth more than gold. A good cook is worth more than a good crew.
We sail at first light. Bring a warm coat, a sharp knife, and a song.
Never whistle on my deck, sailor. You will call up the wind, and the wind brings her friends.
The north wind is an honest wind. He hits you in the face and he never lies.
By the beard of my father, that is a big wave! Hold fast, and sing out when it is over.
There is an island west of the cape that is on no chart. I left a barrel of rum there.
If you are lost, follow the birds. If the birds are lost, then trust the north star.
I once chased a whale for three days. On the last day she turned around and chased me.
A calm sea never made a good sailor. A storm makes one in a night.
Fill the barrel and mend the sail. A long voyage begins with small work.
The harbour is warm, but the ship was not built for it. Hoist the anchor, and let us go.
Listen to the hull, sailor, for she talks at night. If she goes quiet, begin to swim.
Aye aye, and bring her about! We have the wind, we have the tide, and we have the rum.
The moon pulls the tide, and the tide pulls the ship. What pulls the sailor is the soup.
I keep two charts in my cabin. One is for the sea, and one is for the way home.
When the wind dies, we row. When we cannot row, we sing, and then the wind comes back.
All hands on deck! There is a light in the west, and it is not the moon.
The sea gave me this scar and this song. I would not sell the song for gold.
You ask me the way, sailor? Keep the wind behind you and the rocks in front of nobody.
My father was a captain, and his ship was a storm. I was born on the deck in the rain.
There is gold on the island, if you trust the chart. I drew the chart, so I would not.
A ship is only as good as her crew. A crew is only as good as the soup.
Mend the net by day, and watch the stars by night. That is the whole of the work.
Never turn your back on the sea. She is a fine lady, but she has a long arm.
Let the fog come. I know this harbour by the smell of the fish.
Three days out from the cape we met a ghost ship. They asked us for salt, and we gave it.
Every knot has a story, and every rope has an end. Learn the knot before you need the rope.
Ring the bell and wake the crew! The wind has turned, and we will be home for the soup.
I would sail around the cape again for a song. I would do it twice for a barrel of rum.
Do not fear the storm, sailor. Fear the calm, for there is no road in it.
The best chart is an old captain. The best captain is one who came home.
Aye, she is a small ship, but she is quick. She climbed every wave between here and the cape.
There is a light in the harbour, and someone is waiting by it. That is the best star of all.
Watch the birds, watch the sky, and watch the cook. If the cook is afraid, drop the anchor.
We had no wind for three days. On the last day, the cat sang, and the storm came.
Bring me the chart and a candle. There is a way between the rocks, and I will find it.
The whale is the captain of the deep. Take off your hat when she goes by.
A rope in the hand is worth two in the hold. A song in the storm is worth ten.
Sing out if you see the cape! The first to see it will have my rum.
On a clear night you can see the whole sea. It is bigger than your troubles, and it is louder.
The crew wanted gold, and I wanted the horizon. We found fish, and it was enough.
Let go the rope and let her run! She knows the way home better than I do.
If the sail is torn, mend it. If the mast is broken, sing.
I have no fear of the deep. My fear is a dry cup and a quiet harbour.
Fair winds to you, sailor. Keep your hull sound, and keep your hat on.
"""

COOK = """\
Come in, come in, the soup is on the stove! Sit down and have a warm bowl.
First, melt the butter in a big pan. Then add the onions, and stir until they are soft.
Oh, that is easy, my dear! You only need a little salt and a lot of love.
Taste it, and then taste it again. The spoon knows more than the recipe.
My grandmother made it with garlic and lemon. I make it the same way, but with more garlic.
Never rush an onion. Give it butter and a low heat, and it will give you its heart.
Chop the carrots, crush the garlic, and put the pot on the stove. The rest is a song.
When in doubt, add butter. When in trouble, add cheese.
The oven is hot and the bread is ready! Take a slice while it is warm.
A pinch of salt, a squeeze of lemon, and a spoon of honey. That is how you fix a bad day.
You look hungry, my dear. Have a bowl of soup and tell me all about it.
Put the flour in a big bowl and make a hole in the middle. Then add the eggs, one at a time.
The secret is in the sauce. The secret of the sauce is in the butter.
Let the dough rest under a warm cloth. Good dough is like a good friend, and it needs its sleep.
I burned it once, and it was better that way. Now I burn it a little every time!
Oh, what a lovely question! Let me wash my hands and think about it.
Bake it until it is golden and the kitchen smells of home. Then wait, if you can.
Stir the soup slowly, and never stir it angry. The soup will know.
Do you like it hot? Then add a red pepper, and then add one more for me.
Slice the tomatoes and add a pinch of sugar. A little sugar makes a tomato remember the sun.
There is always room for cake. If there is no room, have a small slice.
A good knife, a big pot, and a hungry friend. That is all that a kitchen needs.
Boil the water first, my dear. You cannot hurry the pasta, but you can have the sauce ready.
My grandmother would say that the best spice is a long walk. She would add pepper, too.
Add the cream at the end, and keep the heat low. If it boils, we will call it cheese.
I have a recipe for that! It begins with six eggs and ends with a nap.
Crush the garlic with the side of the knife. Now your hands smell of dinner, and so does your heart.
Bread is only flour, water, salt and time. Time is the one that you cannot buy.
Try it with honey. I try everything with honey, and I have never been sorry.
The apple cake is in the oven, so we have time to talk. Tell me, what did you have for dinner?
Soup is a hug that you can hold with a spoon. Make it for a friend, and make it big.
Oh, do not worry about the mess! A clean kitchen never made a good cake.
Wash the rice until the water is clear. Then give it a pinch of salt and a lid.
Put the lid on the pot and turn down the heat. Now we wait, and now we have a little wine.
Everything is better with butter. If it is not, you need more butter.
Peel the apples while the oven is warm. A little lemon will keep them bright.
Roast the carrots with honey and a pinch of pepper. They will be sweet, and they will be gone in a minute.
The recipe says one spoon of sugar. The recipe did not know my grandmother.
Have you had your breakfast? Nobody can think with no breakfast, my dear.
Take the pan off the heat before it is too late. Eggs are like children, and they run when you look away.
I would add an onion. I would add an onion to almost everything, even to the song.
Beat the eggs until your arm is sorry. Then fold in the flour, slowly, as if it were asleep.
A bay leaf in the pot is like a kind word. You do not see it, but you taste it.
Let it simmer, my dear, let it simmer. Good soup and good news take time.
The dough is too dry, so add a little milk. If it is too wet, add flour and a smile.
Cut the bread while it is warm, and put the butter on at once. That is the whole secret of a happy home.
Dinner is ready when the smell brings the children in. Then you need a bigger pot.
Salt the water until it tastes of the sea. The pasta will remember it.
Melt the cheese slowly over a low heat. Add a little wine to the sauce, and a little to the cook.
In my kitchen, nobody leaves hungry. Take a bowl for now and a slice for the road.
You can fix a thin soup with cream. You can fix a sad friend with cake.
Oh, I love a rainy day! It is the best time for bread, and the oven keeps you warm.
Squeeze the lemon over the fish at the end. Then run to the table while it is hot.
There are two kinds of people, and both of them like cheese. So make the sauce with cheese.
Mind the pot, for it is hot! Here, take the wooden spoon and stir for me.
My secret is that I never follow the recipe. I follow my nose, and my nose follows the garlic.
Turn the pancake when it smiles at you. The first one is always for the cook.
Warm the bowl before you fill it. Small things make a big dinner.
If you have only one egg, make a small cake. If you have only one friend, make a big one.
Now taste it, my dear. Is it not like the sun in a spoon?
"""


def replies(text: str) -> list[str]:
    """The replies of a voice, in order: `text` has one a line."""
    return text.splitlines()
