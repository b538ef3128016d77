package qtools.core

import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.floor

internal const val LEVELS = 256

/** Numbers as they lie in memory, little-endian. */
internal fun inMemory(numbers: List<Double>, type: Type): ByteArray {
    val buffer = ByteBuffer.allocate(numbers.size * type.bytes).order(ByteOrder.LITTLE_ENDIAN)
    for (number in numbers) {
        when (type) {
            Type.INT8, Type.UINT8 -> buffer.put(number.toInt().toByte())
            Type.INT16 -> buffer.putShort(number.toInt().toShort())
            Type.FLOAT32 -> buffer.putFloat(number.toFloat())
        }
    }
    return buffer.array()
}

/** Height and width of a picture before the crop. */
internal fun goalSize(height: Int, width: Int, said: Preparation): Pair<Int, Int> {
    val goalHeight = floor(said.height / said.keep).toInt()
    val goalWidth = floor(said.width / said.keep).toInt()
    if (said.crop == Crop.SQUASH) return goalHeight to goalWidth
    if (said.crop == Crop.CENTER && goalHeight == goalWidth) {
        val grown = (goalHeight.toLong() * maxOf(height, width) / minOf(height, width)).toInt()
        return if (height <= width) goalHeight to grown else grown to goalHeight
    }
    val tall = height.toDouble() / goalHeight
    val wide = width.toDouble() / goalWidth
    val ratio = if (said.crop == Crop.BORDER) maxOf(tall, wide) else minOf(tall, wide)
    return maxOf(1, Math.rint(height / ratio).toInt()) to maxOf(1, Math.rint(width / ratio).toInt()) // half to even
}

/** Where the middle of `goal` pixels begins among `have`; below 0 where there are fewer. */
private fun start(have: Int, goal: Int): Int =
    if (have < goal) -((goal - have) / 2) else Math.rint((have - goal) / 2.0).toInt()

/** A box of the picture behind resize and crop, as shares of the whole picture of this height and width. */
fun uncut(box: Box, height: Int, width: Int, said: Preparation): Box {
    val (tall, broad) = goalSize(height, width, said)
    val top = start(tall, said.height)
    val left = start(broad, said.width)
    return Box(
        (box.left * said.width + left) / broad,
        (box.top * said.height + top) / tall,
        (box.right * said.width + left) / broad,
        (box.bottom * said.height + top) / tall,
    )
}

/**
 * A picture as the bytes of the input tensor, little-endian, in the contract's layout.
 *
 * What to resize is decided by the contract alone: hand in the whole picture in its own size.
 */
fun prepare(picture: Picture, contract: Contract): ByteArray {
    val said = contract.preparation
    val (height, width) = goalSize(picture.height, picture.width, said)
    val resized = resize(picture, height, width, said.filter)
    val top = start(height, said.height)
    val left = start(width, said.width)
    val size = contract.input.type.bytes
    val plane = said.height * said.width
    val tensor = ByteArray(3 * plane * size)
    for (y in 0 until said.height) {
        for (x in 0 until said.width) {
            val inside = y + top in 0 until height && x + left in 0 until width
            val pixels = if (inside) resized.rgb else said.fill
            val from = if (inside) 3 * ((y + top) * width + x + left) else 0
            val pixel = y * said.width + x
            for (channel in 0 until 3) {
                val byte = pixels[from + if (said.colours == Colours.BGR) 2 - channel else channel].toInt() and 255
                val to = if (said.layout == Layout.NCHW) channel * plane + pixel else 3 * pixel + channel
                val code = (channel * LEVELS + byte) * size
                for (part in 0 until size) tensor[to * size + part] = contract.input.table[code + part]
            }
        }
    }
    return tensor
}
