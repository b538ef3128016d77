package qtools.core

import kotlin.math.abs

private const val PRECISION = 22 // bits behind the binary point: 32, less 8 of the pixel, less 2 for sums beyond it

/** Filters of a contract. [reach]: the distance beyond which the weight is zero. */
enum class Filter(val reach: Double) { NEAREST(0.0), BOX(0.5), BILINEAR(1.0), HAMMING(1.0), BICUBIC(2.0), LANCZOS(3.0) }

// StrictMath: the same bits on every JVM and on every Android.
private fun sinc(x: Double): Double = if (x == 0.0) 1.0 else StrictMath.sin(x * Math.PI) / (x * Math.PI)

private fun weight(filter: Filter, at: Double): Double {
    val x = abs(at)
    return when (filter) {
        Filter.BOX -> if (at > -0.5 && at <= 0.5) 1.0 else 0.0
        Filter.BILINEAR -> if (x < 1) 1 - x else 0.0
        Filter.HAMMING -> when {
            x == 0.0 -> 1.0
            x >= 1 -> 0.0
            else -> sinc(x) * (0.54f.toDouble() + 0.46f.toDouble() * StrictMath.cos(x * Math.PI)) // float32 in Pillow
        }
        Filter.BICUBIC -> {
            val a = -0.5
            when {
                x < 1 -> ((a + 2) * x - (a + 3)) * x * x + 1
                x < 2 -> (((x - 5) * x + 8) * x - 4) * a
                else -> 0.0
            }
        }
        Filter.LANCZOS -> if (at >= -3 && at < 3) sinc(at) * sinc(at / 3) else 0.0
        Filter.NEAREST -> throw IllegalArgumentException("nearest has no weights")
    }
}

/** For one pixel of the result: the first pixel that it reads, and integer weights from there on. */
private class Reads(val first: Int, val parts: IntArray)

private fun reads(source: Int, goal: Int, filter: Filter): List<Reads> {
    val scale = source.toDouble() / goal
    val wide = maxOf(scale, 1.0)
    val support = filter.reach * wide
    val inverse = 1.0 / wide
    return List(goal) { x ->
        val center = (x + 0.5) * scale
        val first = maxOf((center - support + 0.5).toInt(), 0)
        val last = minOf((center + support + 0.5).toInt(), source)
        val real = DoubleArray(last - first) { weight(filter, (first + it - center + 0.5) * inverse) }
        var total = 0.0
        for (each in real) total += each // one after the other: the sum rounds as it goes
        Reads(first, IntArray(real.size) { at ->
            val part = if (total == 0.0) real[at] else real[at] / total
            (part * (1 shl PRECISION) + if (part < 0) -0.5 else 0.5).toInt()
        })
    }
}

/** Where the pixels of a picture lie along one side: bytes to the next pixel of a line, and to the next line. */
private class Way(val step: Int, val line: Int)

private fun along(data: ByteArray, lines: Int, each: List<Reads>, from: Way, to: Way): ByteArray {
    val result = ByteArray(lines * each.size * 3)
    for (line in 0 until lines) {
        for ((x, reads) in each.withIndex()) {
            var red = 1 shl (PRECISION - 1)
            var green = red
            var blue = red
            var at = line * from.line + reads.first * from.step
            for (part in reads.parts) {
                red += (data[at].toInt() and 255) * part
                green += (data[at + 1].toInt() and 255) * part
                blue += (data[at + 2].toInt() and 255) * part
                at += from.step
            }
            val place = line * to.line + x * to.step
            result[place] = (red shr PRECISION).coerceIn(0, 255).toByte()
            result[place + 1] = (green shr PRECISION).coerceIn(0, 255).toByte()
            result[place + 2] = (blue shr PRECISION).coerceIn(0, 255).toByte()
        }
    }
    return result
}

private fun toWidth(picture: Picture, width: Int, filter: Filter): Picture {
    if (picture.width == width) return picture
    val each = reads(picture.width, width, filter)
    val made = along(picture.rgb, picture.height, each, Way(3, 3 * picture.width), Way(3, 3 * width))
    return Picture(width, picture.height, made)
}

private fun toHeight(picture: Picture, height: Int, filter: Filter): Picture {
    if (picture.height == height) return picture
    val each = reads(picture.height, height, filter)
    val way = Way(3 * picture.width, 3)
    return Picture(picture.width, height, along(picture.rgb, picture.width, each, way, way))
}

private fun nearest(source: Int, goal: Int): IntArray {
    val scale = source.toDouble() / goal
    var at = scale * 0.5
    return IntArray(goal) { minOf(at.toInt(), source - 1).also { at += scale } } // added one after the other
}

private fun toNearest(picture: Picture, height: Int, width: Int): Picture {
    val columns = nearest(picture.width, width)
    val rgb = ByteArray(3 * height * width)
    var to = 0
    for (row in nearest(picture.height, height)) {
        for (column in columns) {
            val from = 3 * (row * picture.width + column)
            for (channel in 0 until 3) rgb[to++] = picture.rgb[from + channel]
        }
    }
    return Picture(width, height, rgb)
}

/** A picture in another size: one side after the other, rounded to bytes in between, as Pillow does it. */
fun resize(picture: Picture, height: Int, width: Int, filter: Filter): Picture {
    if (picture.height == height && picture.width == width) return picture
    if (filter == Filter.NEAREST) return toNearest(picture, height, width)
    val lost = picture.height - height
    if (lost > 0 && lost > 2 * (picture.width - width)) { // what shrinks most goes first
        return toWidth(toHeight(picture, height, filter), width, filter)
    }
    return toHeight(toWidth(picture, width, filter), height, filter)
}
