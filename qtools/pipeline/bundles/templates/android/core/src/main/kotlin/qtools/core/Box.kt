package qtools.core

import kotlin.math.max
import kotlin.math.min

/**
 * A box: sides as shares of a picture, which it may reach beyond.
 *
 * Those of a [Detection] are of the picture that goes in, behind resize and crop: [uncut] makes shares of the whole
 * picture of them, [turned] and [within] what a view shows of that.
 */
class Box(val left: Double, val top: Double, val right: Double, val bottom: Double) {
    private val area get() = max(0.0, right - left) * max(0.0, bottom - top)

    /** Intersection over union; 0 where both are empty. */
    fun overlap(other: Box): Double {
        val width = max(0.0, min(right, other.right) - max(left, other.left))
        val height = max(0.0, min(bottom, other.bottom) - max(top, other.top))
        val shared = width * height
        val either = area + other.area - shared
        return if (either > 0) shared / either else 0.0
    }

    /** The same box in the picture turned clockwise, as [Picture.turned] turns it. */
    fun turned(degrees: Int): Box {
        require(degrees % 90 == 0) { "$degrees degrees are no quarter turns" }
        return when ((degrees / 90).mod(4)) {
            0 -> this
            1 -> Box(1 - bottom, left, 1 - top, right)
            2 -> Box(1 - right, 1 - bottom, 1 - left, 1 - top)
            else -> Box(top, 1 - right, bottom, 1 - left)
        }
    }

    /** The same box as shares of a part of the picture, such as the one that a preview shows. */
    fun within(part: Box): Box {
        val width = part.right - part.left
        val height = part.bottom - part.top
        return Box(
            (left - part.left) / width,
            (top - part.top) / height,
            (right - part.left) / width,
            (bottom - part.top) / height,
        )
    }
}
