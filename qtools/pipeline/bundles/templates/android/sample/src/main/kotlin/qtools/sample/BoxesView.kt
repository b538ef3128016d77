package qtools.sample

import android.content.Context
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Paint
import android.view.View
import qtools.core.Box

/** What is written at a box, its class, which gives the colour, and its sides as shares of the view. */
class Mark(val words: String, val index: Int, val box: Box)

/** Boxes with their names, over whatever lies behind. */
class BoxesView(context: Context) : View(context) {
    private val unit = resources.displayMetrics.density
    private val line = Paint(Paint.ANTI_ALIAS_FLAG).apply {
        style = Paint.Style.STROKE
        strokeWidth = 2 * unit
    }
    private val plate = Paint()
    private val letters = Paint(Paint.ANTI_ALIAS_FLAG).apply {
        color = Color.WHITE
        textSize = 14 * unit
    }

    var marks: List<Mark> = emptyList()
        set(value) {
            field = value
            invalidate()
        }

    override fun onDraw(canvas: Canvas) {
        for (mark in marks) {
            val left = (mark.box.left * width).toFloat()
            val top = (mark.box.top * height).toFloat()
            line.color = colour(mark.index)
            plate.color = line.color
            canvas.drawRect(left, top, (mark.box.right * width).toFloat(), (mark.box.bottom * height).toFloat(), line)
            name(canvas, mark.words, maxOf(0f, left), maxOf(0f, top))
        }
    }

    /** Inside the upper left corner, or that of the view where the box begins outside. */
    private fun name(canvas: Canvas, words: String, left: Float, top: Float) {
        val (above, below) = letters.fontMetrics.let { -it.ascent to it.descent }
        canvas.drawRect(left, top, left + letters.measureText(words) + 8 * unit, top + above + below, plate)
        canvas.drawText(words, left + 4 * unit, top + above, letters)
    }

    /** Far from those of the neighbouring classes. */
    private fun colour(index: Int): Int = Color.HSVToColor(floatArrayOf(index * 137 % 360f, 0.9f, 0.8f))
}
